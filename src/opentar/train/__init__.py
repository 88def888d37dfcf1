"""Training of any model of this kind: one trainer, stages of any size, recipes that are graphs of named steps.

`stage.py` says what a stage is, `trainer.py` runs one, `stages/` holds them, `recipe.py` joins them behind their gates
and `run.py` carries a recipe out.
"""
