"""Published files become a model folder, and a model becomes the folder of another program."""
