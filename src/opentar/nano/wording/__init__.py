"""Language as people use it, for the next training: grammar of names, wordings, noise, honest answers, talks."""
