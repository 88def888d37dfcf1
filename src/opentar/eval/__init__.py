"""Scores: drawing, reading and each link of the chain, with the judge's own error beside them."""
