"""The alphabet is arithmetic: its numbers are those of the published models, and nothing out of range passes."""

import numpy as np
import pytest
import torch

from opentar.core.errors import ConfigError, ModelError
from opentar.vocab import Vocab

NANO = Vocab(text_size=2048, codebook_size=4096, grid_side=12)
PUBLISHED = Vocab(text_size=151665, codebook_size=65536, grid_side=27)


def test_published_ids_are_those_of_the_released_tokenizer() -> None:
    assert PUBLISHED.image_start == 151665
    assert PUBLISHED.image_end == 151666
    assert [PUBLISHED.scale_token(k) for k in range(3)] == [151667, 151668, 151669]
    assert PUBLISHED.first_code == PUBLISHED.code_token(0) == 151670
    assert PUBLISHED.size == 217206


@pytest.mark.parametrize(("vocab", "sides"), [(NANO, (12, 6, 4)), (PUBLISHED, (27, 13, 9))])
def test_scales(vocab: Vocab, sides: tuple[int, ...]) -> None:
    assert tuple(scale.side for scale in vocab.scales) == sides
    for index, scale in enumerate(vocab.scales):
        assert (scale.index, scale.pool, scale.length) == (index, index + 1, scale.side**2)
        assert vocab.scale(index) == scale == vocab.scale_of_length(scale.length)


@pytest.mark.parametrize("index", [-1, 3, True, "1", 1.0, None])
def test_unknown_scale_is_refused_with_what_is_allowed(index: object) -> None:
    with pytest.raises(ConfigError, match="0, 1 or 2"):
        NANO.scale(index)  # type: ignore[arg-type]


def test_codes_and_ids_are_inverse_for_ints_tensors_and_arrays() -> None:
    assert NANO.code_of(NANO.code_token(17)) == 17
    codes = torch.tensor([[0, 17], [4095, 3]])
    assert torch.equal(NANO.code_of(NANO.code_token(codes)), codes)
    array = np.array([0, 4095])
    assert (NANO.code_token(array) == array + 2053).all()


@pytest.mark.parametrize("code", [-1, 4096, torch.tensor([0, 4096]), np.array([-1, 3])])
def test_codes_out_of_range_raise(code: object) -> None:
    with pytest.raises(ModelError, match="outside 0 to 4095"):
        NANO.code_token(code)


@pytest.mark.parametrize("token", [0, 2048, 2052, 6149, torch.tensor([2053, 2047])])
def test_ids_that_are_no_codes_raise(token: object) -> None:
    with pytest.raises(ModelError, match="no image code"):
        NANO.code_of(token)


def test_is_code() -> None:
    assert NANO.is_code(2053)
    assert not NANO.is_code(2052)
    assert NANO.is_code(torch.tensor([2052, 2053, 6148, 6149])).tolist() == [False, True, True, False]


def test_incomplete_grid_has_no_scale() -> None:
    with pytest.raises(ModelError, match="144, 36 or 16"):
        NANO.scale_of_length(35)


def test_padded_table_starts_later() -> None:
    vocab = Vocab(text_size=2048, codebook_size=16, grid_side=12, first_new=2100)
    assert (vocab.image_start, vocab.first_code, vocab.size) == (2100, 2105, 2121)
    with pytest.raises(ConfigError, match="first_new"):
        Vocab(text_size=2048, codebook_size=16, grid_side=12, first_new=5)


@pytest.mark.parametrize("sizes", [(0, 1, 12), (1, 0, 12), (1, 1, 2)])
def test_sizes_that_make_no_alphabet(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError):
        Vocab(text_size=sizes[0], codebook_size=sizes[1], grid_side=sizes[2])
