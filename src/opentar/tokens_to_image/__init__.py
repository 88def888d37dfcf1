"""Codes' features -> picture: the AR de-tokenizer with its VQGAN, the flow de-tokenizer with its autoencoder, SANA."""
