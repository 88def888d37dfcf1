"""The commands of the command line, imported one file at a time when they are called."""
