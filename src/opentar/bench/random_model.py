"""A model of random weights of a published size, made once and kept in the cache folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from opentar.core import environment
from opentar.core.manifest import MANIFEST
from opentar.core.progress import Progress


def place_of(size: str) -> Path:
    """Where the random model of a size is kept."""
    return environment.cache_dir() / "bench" / f"{size}-random"


def random_model(size: str, progress: Progress | None = None) -> Path:
    """The folder of the random model of a size, in bfloat16; made where it is not there yet.

    Without diffusers it has no SANA de-tokenizer.

    Raises:
        ModelError: an unknown size, or too little memory.
        OutputError: the disk is too small or refuses.
    """
    from opentar.checkpoints.random_init import PARTS, init_random
    from opentar.checkpoints.sizes import size_of

    sizes, folder = size_of(size), place_of(size)
    if not (folder / MANIFEST).is_file():
        parts = PARTS if find_spec("diffusers") else tuple(part for part in PARTS if part != "detok_diffusion")
        init_random(sizes, folder, parts=parts, progress=progress)
    return folder
