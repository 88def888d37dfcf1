"""Loading a part takes little more memory than its weights have bytes, whatever type they are stored in and run in."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from opentar.checkpoints.random_init import init_random
from opentar.checkpoints.sizes import TarSize, size_of

pytest.importorskip("diffusers")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a moment")

# A tiny model is loaded first, so that libraries and their classes are there, then the large one of the same kinds.
LOADER = """
import json, sys
from pathlib import Path
from opentar.checkpoints.parts import ModelParts

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e9

tiny, large, dtype = sys.argv[1:]
tiny, large = (ModelParts(Path(folder), device="cpu", dtype=dtype) for folder in (tiny, large))
grown = {}
for part in ("language", "ta_tok", "detok_ar", "detok_diffusion"):
    for model in (tiny, large):
        before = status("VmRSS:")
        # Sets the peak back to what is held now.
        Path("/proc/self/clear_refs").write_text("5")
        model.detokenizer(part.removeprefix("detok_")) if part.startswith("detok_") else getattr(model, part)
        grown[part] = status("VmHWM:") - before
print(json.dumps(grown))
"""


def wide(size: TarSize) -> TarSize:
    """The tiny size with blocks of some tens of MB in every part."""
    language = dataclasses.replace(size.language, hidden=1024, heads=8, head_size=128, mlp=4096)
    vision = dataclasses.replace(size.ta_tok.vision, hidden_size=1024, mlp_size=4096)
    quantizer = dataclasses.replace(size.ta_tok.quantizer, width=1024)
    decoder = dataclasses.replace(size.ta_tok.decoder, input_size=1024, hidden_size=1024, mlp_size=4096, layers=2)
    ar = dataclasses.replace(size.ar, hidden_size=1024, heads=8, mlp_size=4096)
    transformer = {**size.sana.transformer, "num_layers": 2, "num_attention_heads": 128}
    return dataclasses.replace(
        size,
        language=language,
        ta_tok=dataclasses.replace(size.ta_tok, vision=vision, quantizer=quantizer, decoder=decoder),
        ar=ar,
        sana=dataclasses.replace(size.sana, transformer=transformer),
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model, and a wide one in both types."""
    root = tmp_path_factory.mktemp("memory")
    size = size_of("tar-tiny")
    init_random(size, root / "tiny")
    for dtype in ("bf16", "fp32"):
        init_random(wide(size), root / dtype, dtype=dtype)
    return {path.name: path for path in root.iterdir()}


@pytest.mark.parametrize(("stored", "run"), [("bf16", "stored"), ("bf16", "float32"), ("fp32", "stored")])
def test_the_peak_is_little_more_than_the_weights(folders: dict[str, Path], stored: str, run: str) -> None:
    command = [sys.executable, "-c", LOADER, str(folders["tiny"]), str(folders[stored]), run]
    grown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for part, more in grown.items():
        weights = sum(path.stat().st_size for path in (folders[stored] / part).rglob("*.safetensors")) / 1e9
        weights *= 2 if (stored, run) == ("bf16", "float32") else 1
        assert weights > 0.03, "too small to tell"
        # Some MB for a file's header, and for the largest tensor, which is there in both types for a moment.
        assert more <= 1.1 * weights + 0.035, part
