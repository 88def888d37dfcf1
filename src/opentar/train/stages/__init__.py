"""The stages of training, one file each, in the order in which they need one another."""
