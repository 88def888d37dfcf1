"""The published sizes have the numbers of the published files, and the importers' own form."""

from __future__ import annotations

import pytest

from opentar.checkpoints import random_init as init
from opentar.checkpoints import sizes
from opentar.core.config import from_dict, to_dict
from opentar.core.errors import ModelError


def _numbers(size: sizes.TarSize, part: str) -> dict[str, int]:
    return {name: init._numbers(like) for name, like in init._shapes(size, part).items()}


def test_numbers_of_the_1_5b_model() -> None:
    size = sizes.size_of("tar-1.5b")
    assert size.language.vocab.size == size.language.table_rows == 217_206
    assert size.language.vocab.first_code == 151_670
    assert [scale.length for scale in size.language.vocab.scales] == [729, 169, 81]
    # Qwen2.5-1.5B has 1,543,714,304 with 151,936 rows of 1536.
    assert _numbers(size, "language") == {".": 1_543_714_304 + (217_206 - 151_936) * 1536}
    # 591 M in the file; the heads, the encoder's last layer and last norm are left out.
    dropped = 591_000_000 - _numbers(size, "ta_tok")["."]
    assert 35_000_000 < dropped < 60_000_000
    ar = _numbers(size, "detok_ar")
    assert 653_000_000 < ar["transformer"] < 655_000_000
    assert 68_000_000 < ar["canvas"] < 75_000_000


def test_numbers_of_the_7b_model() -> None:
    size = sizes.size_of("tar-7b")
    # Qwen2.5-7B has 7,615,616,512 with two tables of 152,064 rows of 3584.
    assert _numbers(size, "language") == {".": 7_615_616_512 + 2 * (217_206 - 152_064) * 3584}
    assert size.ta_tok == sizes.size_of("tar-1.5b").ta_tok


def test_numbers_of_sana() -> None:
    pytest.importorskip("diffusers")
    found = _numbers(sizes.size_of("tar-1.5b"), "detok_diffusion")
    assert 585_000_000 < found["transformer"] < 600_000_000
    assert 310_000_000 < found["vae"] < 315_000_000


@pytest.mark.parametrize("name", ["tar-1.5b", "tar-7b", "tar-tiny"])
def test_the_parts_fit_each_other(name: str) -> None:
    size = sizes.size_of(name)
    assert size.name == name
    assert size.language.codebook_size == size.ta_tok.quantizer.codebook_size
    assert size.language.grid_side == size.ta_tok.vision.grid_side
    width = size.ta_tok.decoder.output_size
    assert size.ar.feature_size == size.sana.transformer["caption_channels"] == width
    assert size.ar.prefix == size.ta_tok.vision.cells
    assert size.ar.codebook_size == size.vqgan.codebook_size
    for config in (size.language, size.ta_tok, size.ar, size.vqgan):
        assert from_dict(type(config), to_dict(config)) == config


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"'tar-7' is unknown; there are: tar-1\.5b, tar-7b\. Did you mean 'tar-7b'"):
        sizes.size_of("tar-7")
    assert "tar-tiny" not in sizes.NAMES
