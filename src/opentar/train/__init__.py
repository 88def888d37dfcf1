"""Training of every stage: one loop, one folder layout, one recipe a model.

`stage.py` says what a stage is, `loop.py` runs one, `stages/` holds them, `recipes.py` gives their numbers and
`nano.py` runs them in order behind their gates.
"""
