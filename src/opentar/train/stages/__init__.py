"""Stages of any size, one file each: tokenizer, language model, de-tokenizers and their canvases."""
