"""Measures a machine and a model on it: `opentar bench`. Engines and works are found, not listed by hand.

`run.py` starts a process a side (`worker.py`), alternates them and makes rows; `limits.py` measures what the machine
allows at most, `cost.py` what each work needs at least.
"""
