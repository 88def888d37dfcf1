"""The tiny tokenizer, alphabet and model of the language tests, for the engine's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PATH = Path(__file__).parents[1] / "language" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("language_conftest", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
_shared = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_shared)
tokenizer, config, builder, model, injection = (
    _shared.tokenizer, _shared.config, _shared.builder, _shared.model, _shared.injection,
)  # fmt: skip
