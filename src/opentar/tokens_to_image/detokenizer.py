"""What every de-tokenizer promises, and how a folder becomes one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from opentar.core.errors import ConfigError, ModelError, shown
from opentar.core.folder import read_config, standing, verify

if TYPE_CHECKING:
    from opentar.core.storage import LoadDtype

Preview = Callable[[], Tensor]
"""Makes the picture as it stands: pixels float (B, 3, H, W) in [0, 1]. Costs a decoder run, so call it when shown."""

Callback = Callable[[int, int, Preview], object]
"""`callback(done, total, preview)` after every step; raise inside it to stop (a cancelled request does)."""


@runtime_checkable
class Detokenizer(Protocol):
    """Features of TA-Tok's decoder to pixels."""

    @property
    def image_size(self) -> int:
        """Side of the square pictures it makes."""
        ...

    @property
    def feature_size(self) -> int:
        """Width D of the features it takes."""
        ...

    def to(self, device: Any) -> Any:
        """Move to a device, as torch modules do."""
        ...

    def decode(
        self,
        features_BND: Tensor,
        *,
        seed: int | Sequence[int] = 0,
        guidance: float | None = None,
        steps: int | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Features (B, N, D), N a square grid, to pixels float32 (B, 3, image_size, image_size) in [0, 1].

        Args:
            features_BND: what the codes describe.
            seed: one seed a picture, or one number: picture i then takes seed + i. Same seed, same picture.
            guidance: weight of the condition, 1 is none; None takes the model's own.
            steps: sampling steps; None takes the model's own.
            callback: called after every step.

        Raises:
            ModelError: features of another width or grid than the model knows.
            ConfigError: guidance, steps or seed out of range.
        """
        ...


def load_detokenizer(folder: str | Path, dtype: LoadDtype = "stored", *, openvino: bool = False) -> Detokenizer:
    """The de-tokenizer in a folder: ours (config.json says its kind) or a diffusers SANA folder (model_index.json).

    `dtype` is that of an AR transformer or of SANA's; flow, and whatever turns latents or codes into pixels, run in
    float32. With `openvino` that library runs an AR transformer, on the CPU.

    Raises:
        WeightsError: the folder is missing or damaged.
        ModelError: the folder holds another kind of model.
    """
    folder = standing(Path(folder))
    if (folder / "model_index.json").is_file():
        from opentar.tokens_to_image.sana import SanaDetokenizer

        return SanaDetokenizer.from_folder(folder, dtype=dtype)
    kind = read_config(folder).get("kind")
    if kind == "flow":
        from opentar.tokens_to_image.flow import FlowDetokenizer

        return FlowDetokenizer.from_folder(folder)
    if kind == "ar":
        from opentar.tokens_to_image.ar import ARDetokenizer

        return ARDetokenizer.from_folder(folder, dtype, openvino=openvino)
    raise ModelError(f"{shown(folder)} holds the kind {shown(kind)}; a de-tokenizer is 'flow', 'ar' or a SANA folder")


def write_settings(unfinished: Path, kind: str, settings: Mapping[str, Any]) -> None:
    """config.json of a de-tokenizer's folder (its parts lie in folders below it)."""
    text = json.dumps({"kind": kind, **settings}, indent=2, ensure_ascii=False)
    (unfinished / "config.json").write_text(text + "\n", encoding="utf-8")


def read_settings(folder: Path, kind: str) -> dict[str, Any]:
    """The settings that ``write_settings`` wrote, this file and the parts' manifests verified.

    Raises WeightsError, ModelError.
    """
    # The parts below are verified when they are loaded.
    verify(folder, deep=False)
    settings = read_config(folder)
    found = settings.pop("kind", None)
    if found != kind:
        raise ModelError(f"{shown(folder)} holds the kind {shown(found)}; {kind!r} is needed: use load_detokenizer")
    return settings


def grid_side(features_BND: Tensor, width: int) -> int:
    """Side of the square grid of features (B, N, D). Raises ModelError for another shape or width."""
    if features_BND.ndim != 3 or features_BND.shape[2] != width:
        raise ModelError(
            f"features of shape {tuple(features_BND.shape)}; this de-tokenizer takes (pictures, codes, {width})"
        )
    side = math.isqrt(features_BND.shape[1])
    if side == 0 or side * side != features_BND.shape[1]:
        raise ModelError(f"{features_BND.shape[1]} features are not a square grid; give all codes of one scale")
    return side


def check_guidance(guidance: float) -> float:
    """`guidance` itself, or ConfigError when it is not a number from 1 to 50."""
    if not 1 <= guidance <= 50:
        raise ConfigError(f"guidance is {guidance}; give a number from 1 (none) to 50")
    return float(guidance)


def check_steps(steps: int, most: int = 1000) -> int:
    """`steps` itself, or ConfigError when it is not a whole number from 1 to `most`."""
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:
        raise ConfigError(f"steps is {steps}; give a whole number from 1 to {most}")
    return steps
