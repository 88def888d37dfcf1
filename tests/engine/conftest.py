"""The tiny tokenizer, alphabet and model of the language tests, for the engine's; nano in PyTorch and in GGUF files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from opentar.checkpoints.convert.gguf import export_gguf
from opentar.checkpoints.find import find_model
from opentar.language.folder import Language, load_language

_PATH = Path(__file__).parents[1] / "language" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("language_conftest", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
_shared = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_shared)
tokenizer, config, builder, model, injection = (
    _shared.tokenizer, _shared.config, _shared.builder, _shared.model, _shared.injection,
)  # fmt: skip


@pytest.fixture(scope="module")
def language() -> Language:
    return load_language(find_model("nano") / "language", torch.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    return {to: export_gguf("nano", folder / f"{to}.gguf", to=to).path for to in ("f32", "f16")}
