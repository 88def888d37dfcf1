"""Stages and labels that only nano has: its teacher, the start of its codebook, its labelled pictures."""
