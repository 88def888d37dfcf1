"""Ways to run the language model. `protocol.py` says what each must do; one file a backend."""
