"""The model that ships: small enough, whole, and able to do what the README says of it."""

import numpy as np
import pytest
from PIL import Image

from opentar import Tar, model_folder
from opentar.core.folder import verify
from opentar.nano.world.captions import concept_of
from opentar.nano.world.render import load_book, render
from opentar.nano.world.scenes import SceneGenerator


@pytest.fixture(scope="module")
def nano():
    return Tar.from_pretrained("nano", device="cpu")


def test_nano_is_bundled_small_and_undamaged():
    folder = model_folder.find_model("nano")
    assert folder.parent == model_folder.BUNDLED
    assert sum(size for _, size in model_folder.part_files(folder)) <= 20e6
    config = model_folder.read_config(folder)
    assert config.detokenizers == ("diffusion", "ar")
    assert config.licence and config.data
    for part in config.parts:
        verify(folder / part)


def test_it_names_what_it_sees(nano):
    """Held-out layouts of single things in all training styles; chance is one in 301."""
    generator, rng = SceneGenerator("val"), np.random.default_rng(21)
    specs = [generator.sample(rng, "single") for _ in range(12)]
    said = [nano.describe(Image.fromarray(render(spec, load_book("train")))) for spec in specs]
    right = sum(concept_of(spec.objects[0]).en in text for spec, text in zip(specs, said, strict=True))
    assert right >= 6, said


def test_what_it_draws_it_reads_again(nano):
    prompts = ["a banana on a white background", "a rocket on a light gray background", "a key on a black background"]
    pictures = nano.generate(prompts, seed=0)
    said = [nano.describe(picture) for picture in pictures]
    names = ("banana", "rocket", "key")
    assert sum(name in text for name, text in zip(names, said, strict=True)) >= 2, said
    again = nano.generate(prompts[0], seed=0)[0]
    assert np.array_equal(np.asarray(again), np.asarray(pictures[0]))
    preview = nano.generate(prompts[0], seed=0, detok="ar")[0]
    assert preview.size == (128, 128)


def test_words_it_never_learned_are_named(nano):
    assert nano.unknown_words("a zeppelin above a banana") == ["zeppelin"]
