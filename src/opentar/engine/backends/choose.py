"""Which backend runs the language model of a folder: what was asked for, else what the folder holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from opentar.checkpoints.parts import ModelParts
from opentar.core.errors import ConfigError, ModelError, nearest, shown
from opentar.engine.backends.protocol import Backend

Engines = Literal["torch", "llamacpp"]
ENGINES: tuple[Engines, ...] = ("torch", "llamacpp")
"""Names of the backends."""


def choose_engine(parts: ModelParts, asked: str | None) -> Engines:
    """The backend for the language model of `parts`.

    Raises:
        ConfigError: an unknown name.
        ModelError: the folder does not hold what that backend runs.
    """
    if asked is not None and asked not in ENGINES:
        raise ConfigError(
            f"the engine {shown(asked)} is unknown; choose {' or '.join(ENGINES)}.{nearest(asked, ENGINES)}"
        )
    held: Engines = "llamacpp" if parts.language_in_gguf else "torch"
    if asked is None or asked == held:
        return held
    if held == "torch":
        raise ModelError(
            "the engine llamacpp runs language models in GGUF files, and this model has none; make one that does with: "
            "opentar quantize MODEL --to gguf-q4_k_m -o OUT"
        )
    raise ModelError("the language model of this folder is a GGUF file, which PyTorch does not run; use llamacpp")


def opener(parts: ModelParts, engine: Engines) -> Callable[[], Backend]:
    """Opens backends without any slot in use; they share the weights, which are loaded here, once."""
    if engine == "llamacpp":
        from opentar.engine.backends.llamacpp import open_llamacpp

        whole = open_llamacpp(parts.folder / "language")
        return whole.again
    from opentar.engine.backends.torch_backend import TorchBackend

    model = parts.language.model
    return lambda: TorchBackend(model)
