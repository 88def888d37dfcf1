"""Nodes for ComfyUI: draw, ask, describe.

ComfyUI takes them from a file `custom_nodes/opentar/__init__.py` with the one line

    from opentar.integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

Pictures are its tensors: (B, H, W, C) float32 on the CPU, from 0 to 1. The names of classes, attributes and sockets are
stored in people's workflows: they stay.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from opentar.checkpoints.settings import MAX_SEED
from opentar.core.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from opentar.pipeline import Tar

_OWN = "default"
"""Stands for the model's own choice: a combo box of ComfyUI has no empty entry."""
_GRIDS = {_OWN: None, "0 (finest)": 0, "1": 1, "2 (coarsest)": 2}
_MOST_PICTURES = 64
_MODEL = (
    "STRING",
    {"default": "nano", "tooltip": "Name of a bundled or fetched model, or a model folder."},
)
_GRID = (list(_GRIDS), {"default": _OWN, "tooltip": "Grid of codes."})


class OpenTarDraw:
    """Draws pictures of a prompt."""

    CATEGORY = "OpenTar"
    FUNCTION = "draw"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The sockets and fields, as ComfyUI asks for them."""
        return {
            "required": {
                "prompt": ("STRING", {"default": "three red apples", "multiline": True}),
                "model": _MODEL,
                # ComfyUI counts in floating point on the page: larger seeds would not come as they were typed.
                "seed": ("INT", {"default": 0, "min": 0, "max": min(MAX_SEED, 2**53 - 1)}),
                "count": ("INT", {"default": 1, "min": 1, "max": _MOST_PICTURES, "tooltip": "Seeds count up."}),
                "grid": _GRID,
                "detok": ([_OWN, "diffusion", "ar"], {"default": _OWN, "tooltip": "De-tokenizer."}),
            }
        }

    def draw(
        self, prompt: str, model: str = "nano", seed: int = 0, count: int = 1, grid: str = _OWN, detok: str = _OWN
    ) -> "tuple[Tensor]":
        """Pictures (count, H, W, 3) float32 from 0 to 1. Raises OpenTarError as `Tar.generate` does."""
        pictures = _loaded(model).generate(
            prompt, n=count, seed=seed, scale=_GRIDS[grid], detok=None if detok == _OWN else detok
        )
        return (_tensor_of(pictures),)


class OpenTarAsk:
    """Asks a question about each picture of a batch."""

    CATEGORY = "OpenTar"
    FUNCTION = "ask"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("answers",)
    OUTPUT_IS_LIST: ClassVar = (True,)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The sockets and fields, as ComfyUI asks for them."""
        question = ("STRING", {"default": "How many apples are there?", "multiline": True})
        return {"required": {"images": ("IMAGE",), "question": question, "model": _MODEL, "grid": _GRID}}

    def ask(self, images: "Tensor", question: str, model: str = "nano", grid: str = _OWN) -> tuple[list[str]]:
        """One answer a picture of (B, H, W, C). Raises OpenTarError as `Tar.ask` does."""
        pictures = _pictures_of(images)
        return (_loaded(model).ask(pictures, [question] * len(pictures), scale=_GRIDS[grid]),)


class OpenTarDescribe:
    """Says what is in each picture of a batch."""

    CATEGORY = "OpenTar"
    FUNCTION = "describe"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("captions",)
    OUTPUT_IS_LIST: ClassVar = (True,)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The sockets and fields, as ComfyUI asks for them."""
        return {"required": {"images": ("IMAGE",), "model": _MODEL, "grid": _GRID}}

    def describe(self, images: "Tensor", model: str = "nano", grid: str = _OWN) -> tuple[list[str]]:
        """One caption a picture of (B, H, W, C). Raises OpenTarError as `Tar.describe` does."""
        return OpenTarAsk().ask(images, _loaded(model).parts.config.defaults.read.describe, model, grid)


NODE_CLASS_MAPPINGS = {"OpenTarDraw": OpenTarDraw, "OpenTarAsk": OpenTarAsk, "OpenTarDescribe": OpenTarDescribe}
NODE_DISPLAY_NAME_MAPPINGS = {
    "OpenTarDraw": "Draw (OpenTar)",
    "OpenTarAsk": "Ask about images (OpenTar)",
    "OpenTarDescribe": "Describe images (OpenTar)",
}


@lru_cache(maxsize=1)
def _loaded(model: str) -> "Tar":
    """The model that was used last stays in memory: the nodes of a workflow mostly share one."""
    import torch

    from opentar.pipeline import Tar

    # ComfyUI runs nodes in inference mode; tensors that are made in it cannot be used outside of it again.
    with torch.inference_mode(False):
        return Tar.from_pretrained(model)


def _tensor_of(pictures: "list[Image]") -> "Tensor":
    import numpy as np
    import torch

    return torch.stack([torch.from_numpy(np.array(one.convert("RGB"))) for one in pictures]).float() / 255


def _pictures_of(images: "Tensor") -> "list[Image]":
    """Opened pictures; what other nodes leave a little outside of 0 to 1 is cut, as ComfyUI itself does when it saves.

    Raises ImageError for another shape.
    """
    from opentar.core.pictures import open_picture

    shape = tuple(getattr(images, "shape", ()))
    if len(shape) != 4 or not shape[0]:
        raise ImageError(f"the images have the shape {shape}; give (batch, height, width, channels) with at least one")
    return [open_picture(one.detach().cpu().float().clamp(0, 1)) for one in images]
