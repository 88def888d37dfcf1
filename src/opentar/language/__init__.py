"""Tokens to tokens: the text tokenizer, the one builder of sequences, the language model, and generation.

`tokenizer` words <-> ids, `prompt` everything that becomes a sequence, `model` Qwen2 with the extended alphabet,
`generate` constrained drawing and text, `folder` and `published` the shapes on disk.
"""
