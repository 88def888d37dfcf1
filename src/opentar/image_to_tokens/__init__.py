"""Picture -> codes: preprocessing, the SigLIP-type encoder, the SimVQ quantizer, the feature decoder, and TA-Tok.

TA-Tok joins the other four; the table that maps published weights onto it is `published.py`.
"""
