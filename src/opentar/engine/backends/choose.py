"""Which backend runs the language model of a folder: what was asked for, else what the folder holds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

from opentar.checkpoints.parts import ModelParts
from opentar.core.errors import ConfigError, ModelError, nearest, shown
from opentar.engine.backends.protocol import Backend
from opentar.nn.openvino_library import INSTALL, available, openvino_library

Engines = Literal["torch", "llamacpp", "openvino"]
ENGINES: tuple[Engines, ...] = ("torch", "llamacpp", "openvino")
"""Names of the backends."""


def choose_engine(parts: ModelParts, asked: str | None) -> Engines:
    """The backend for the language model of `parts`.

    A folder that was made for OpenVINO holds what PyTorch runs, too: it does where openvino is missing or the device is
    no CPU, with a warning.

    Raises:
        ConfigError: an unknown name.
        ModelError: the folder does not hold what that backend runs, or the backend does not run here.
    """
    if asked is not None and asked not in ENGINES:
        raise ConfigError(
            f"the engine {shown(asked)} is unknown; choose {', '.join(ENGINES)}.{nearest(asked, ENGINES)}"
        )
    if not parts.language_in_gguf:
        return _of_weights(parts, asked)
    if asked in (None, "llamacpp"):
        return "llamacpp"
    other = "PyTorch" if asked == "torch" else "OpenVINO"
    raise ModelError(f"the language model of this folder is a GGUF file, which {other} does not run; use llamacpp")


def _of_weights(parts: ModelParts, asked: str | None) -> Engines:
    """The backend for weights that PyTorch has."""
    if asked == "llamacpp":
        raise ModelError(
            "the engine llamacpp runs language models in GGUF files, and this model has none; make one that does with: "
            "opentar quantize MODEL --to gguf-q4_k_m -o OUT"
        )
    on_cpu = parts.device.type == "cpu"
    if asked == "openvino":
        openvino_library("the engine openvino")
        if not on_cpu:
            raise ModelError(
                f"the engine openvino runs on the CPU, and the device is {parts.device}; use the torch one"
            )
        return "openvino"
    if asked == "torch" or parts.language_engine != "openvino":
        return "torch"
    if on_cpu and available():
        return "openvino"
    if on_cpu:
        told = f"this model was made for OpenVINO, which is not installed; PyTorch runs it, more slowly. {INSTALL}"
        warnings.warn(told, stacklevel=4)
    return "torch"


def ar_in_openvino(parts: ModelParts, asked: str | None, engine: Engines) -> bool:
    """Whether OpenVINO runs AR de-tokenizers beside this backend: its own, and where nobody asked for PyTorch those
    that are quantized, if it is installed.
    """
    if asked == "torch" or parts.device.type != "cpu":
        return False
    if engine == "openvino":
        return True
    names = [part for part in parts.config.parts if part.startswith("detok_ar")]
    return available() and bool(names) and all(parts.running[name] == "packed" for name in names)


def opener(parts: ModelParts, engine: Engines) -> Callable[[], Backend]:
    """Opens backends without any slot in use; they share the weights, which are loaded here, once."""
    if engine == "llamacpp":
        from opentar.engine.backends.llamacpp import open_llamacpp

        whole = open_llamacpp(parts.folder / "language")
        return whole.again
    from opentar.engine.backends.torch_backend import TorchBackend

    if engine == "openvino":
        from opentar.engine.backends.openvino_backend import OpenVINOBackend

        language = parts.language_in_openvino
        return lambda: OpenVINOBackend(language)
    model = parts.language.model
    return lambda: TorchBackend(model)
