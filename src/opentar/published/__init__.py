"""Published Tar: comes in, goes out."""
