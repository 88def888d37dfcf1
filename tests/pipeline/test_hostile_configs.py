"""Configs that ask for what no weights hold, with right hashes: refused in one line, soon, and without memory."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import sys
import threading
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import nn

from opentar import Tar
from opentar.checkpoints.find import BUNDLED
from opentar.checkpoints.random_init import init_random
from opentar.checkpoints.sizes import size_of
from opentar.core.bounds import LAYERS, SIDE, Range, bounded_by, within
from opentar.core.errors import ConfigError, ModelError, OpenTarError, WeightsError
from opentar.nn.sampling import sample


def _hostile() -> ModuleType:
    spec = importlib.util.spec_from_file_location("opentar_tests_hostile", Path(__file__).parents[1] / "hostile.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


hostile = _hostile()
Case = hostile.Case
PICTURE = Image.new("RGB", (40, 30), (200, 30, 30))
MODELS = ("tiny", "published", "nano")
TA_TOK, WORDS = "ta_tok/config.json", "language/config.json"
FLOW, CANVAS = "detok_diffusion/transformer/config.json", "detok_diffusion/autoencoder/config.json"
AR, LATENT = "detok_ar/transformer/config.json", "detok_ar/canvas/config.json"
# Each of these ran for minutes, took all memory, or ended in an error of a library.
NAMED = [
    *((TA_TOK, ("vision", "layers"), many) for many in (10**6, 10**18, 10**400, -1)),
    *((TA_TOK, ("decoder", name), value) for name in ("layers", "heads", "position_side") for value in (0, -1, 10**6)),
    (TA_TOK, ("vision", "image_size"), 10**18),
    (TA_TOK, ("vision", "image_size"), 27),
    (TA_TOK, ("quantizer", "row_width"), 10**18),
    (TA_TOK, ("roles",), 10**18),
    *((WORDS, ("opentar", "language", "layers"), many) for many in (10**6, 10**18, 999)),
    *((WORDS, ("opentar", "language", name), -1) for name in ("heads", "rope_theta", "norm_eps", "first_new")),
    (WORDS, ("opentar", "language", "rows"), 10**18),
    *((FLOW, ("latent_side",), value) for value in (10**6, 4096, 0, -1)),
    *((FLOW, (name,), value) for name in ("patch", "heads", "layers", "hidden_size") for value in (0, -1, 10**18)),
    *((CANVAS, ("decoder_blocks", 0), value) for value in (10**6, 999, -1)),
    *((CANVAS, ("encoder_channels", 1), value) for value in (0, -1, 10**18)),
    (CANVAS, ("latent_scale",), 0),
    *((AR, (name,), value) for name in ("layers", "heads", "codes", "prefix") for value in (0, -1, 10**18)),
    (AR, ("norm_eps",), float("nan")),
    *((LATENT, ("autoencoder", "decoder_blocks", 1), value) for value in (10**6, -1)),
    *(("config.json", ("defaults", "read", "max_new_tokens"), value) for value in (0, -1, 10**18)),
    ("language/tokenizer.json", ("model", "vocab", "!"), 10**9),
]
PUBLISHED = [
    ("detok_ar/canvas/config.json", ("blocks",), 10**18),
    ("detok_ar/canvas/config.json", ("channels",), [8] * 5000),
    ("detok_diffusion/transformer/config.json", ("sample_size",), 10**6),
    ("detok_diffusion/transformer/config.json", ("num_layers",), 10**18),
    ("detok_diffusion/transformer/config.json", ("num_layers",), 999),
    ("detok_diffusion/transformer/config.json", ("norm_eps",), []),
    ("detok_diffusion/transformer/config.json", ("attention_head_dim",), 10**18),
    ("detok_diffusion/vae/config.json", ("decoder_layers_per_block", 0), 10**18),
    ("detok_diffusion/vae/config.json", ("scaling_factor",), 10**400),
    ("detok_diffusion/scheduler/scheduler_config.json", ("num_train_timesteps",), 10**18),
    ("detok_diffusion/scheduler/scheduler_config.json", ("trained_betas",), -1),
    ("detok_diffusion/scheduler/scheduler_config.json", ("timestep_spacing",), "x"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    """Copies that the mutations change and put back."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(tiny_model, folder / "tiny")
    shutil.copytree(BUNDLED / "nano", folder / "nano")
    init_random(size_of("tar-tiny"), folder / "published")
    return {name: folder / name for name in MODELS}


def use(model: Path, part: str) -> bytes:
    """Load a model and use what a part is for."""
    tar = Tar.from_pretrained(model, device="cpu")
    painters = tar.parts.config.detokenizers
    made = b""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not part.startswith("detok_"):
            made += tar.ask(PICTURE, "a dog?", max_new_tokens=4).encode() + repr(tar.encode(PICTURE)).encode()
            made += tar.generate("a dog", scale=2)[0].tobytes()
        for name in [name for name in painters if part == f"detok_{name}"]:
            made += tar.reconstruct(PICTURE, detok=name, scale=2).tobytes()
    return made


def became(models: dict[str, Path], name: str, case: Case, right: bytes | None = None) -> str:
    return hostile.outcome(models[name], case, lambda model, case: use(model, case.file.split("/")[0]), right)


@pytest.mark.parametrize(
    ("model", "wrong"),
    [("tiny", wrong) for wrong in NAMED] + [("published", wrong) for wrong in PUBLISHED],
    ids=lambda value: value if isinstance(value, str) else str(Case(*value)),
)
def test_sizes_that_the_weights_do_not_hold_are_refused(models: dict[str, Path], model: str, wrong: tuple) -> None:
    if model == "published":
        pytest.importorskip("diffusers")
    assert became(models, model, Case(*wrong)) == "refused"


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("tiny", 12),
        ("published", 12),
        ("nano", 3),
        *(
            pytest.param(name, count, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])
            for name, count in (("tiny", 500), ("published", 500), ("nano", 80))
        ),
    ],
)
def test_any_value_anywhere_works_or_is_refused(models: dict[str, Path], model: str, count: int) -> None:
    if model == "published":
        pytest.importorskip("diffusers")
    folder = models[model]
    own = json.loads((folder / "config.json").read_bytes())["parts"]
    right = {part: use(folder, part) for part in ("config.json", "manifest.json", *own)}
    assert all(right.values())
    chosen = hostile.cases(folder)
    random.Random(count).shuffle(chosen)
    bad = {}
    for case in chosen[:count]:
        found = became(models, model, case, right[case.file.split("/")[0]])
        if found not in ("same", "other", "refused"):
            bad[str(case)] = found
    assert bad == {}


def test_building_stops_at_the_first_parameter_too_many() -> None:
    numbers = [16]
    built, side = [], 1

    def endless() -> None:
        while True:
            built.append(nn.Linear(side, side, bias=False))

    with (
        pytest.raises(WeightsError, match="as parameter 11, and the file has 1 tens"),
        bounded_by(numbers, "a part"),
    ):
        endless()
    assert len(built) == 10
    side = 4
    with pytest.raises(WeightsError, match="weight of 4 x 4 as parameter 4"), bounded_by(numbers, "a part"):
        endless()
    with pytest.raises(WeightsError, match="it asks for weight of 5 x 4 as parameter 1"), bounded_by(numbers, "a part"):
        nn.Linear(4, 5, bias=False)
    cannot = pytest.raises(WeightsError, match="the config of a part cannot be built")
    with cannot, bounded_by(numbers, "a part"), torch.device("meta"):
        nn.Linear(10**18, 10**18)
    # Nothing is counted afterwards, and nothing of another thread.
    nn.Linear(100, 100)
    with bounded_by(numbers, "a part"):
        other = threading.Thread(target=lambda: built.append(nn.Linear(100, 100)))
        other.start()
        other.join()
    assert built[-1].in_features == 100


def test_ranges() -> None:
    class Sizes:
        layers, sides, none = 1001, (4, 4097), None

    within(Sizes(), LAYERS, "none")
    with pytest.raises(ConfigError, match=r"x\.layers is 1001; it must be at least 1 and at most 1000"):
        within(Sizes(), LAYERS, "layers", where="x.")
    with pytest.raises(ConfigError, match=r"sides is \(4, 4097\); it must be at least 1 and at most 4096"):
        within(Sizes(), SIDE, "sides")
    within(Sizes(), Range(4, 5000), "layers", "sides")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_nothing_is_drawn_from_what_is_no_number(temperature: float, wrong: float) -> None:
    logits = torch.zeros(2, 8)
    logits[1, 3] = wrong
    with pytest.raises(ModelError, match="NaN or infinity"):
        sample(logits, temperature, generator=torch.Generator().manual_seed(0))
    assert issubclass(ModelError, OpenTarError)
