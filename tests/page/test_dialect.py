"""Grids of codes: neighbours, colours, replacing, comparing."""

import pytest
import torch

from opentar.core.errors import ConfigError
from opentar.page.dialect import Codebook, Codebooks, Grid, differing, replaced
from opentar.vocab import Scale

SMALL = Scale(index=2, pool=2, side=2, length=4)
# Four rows at 0, 10, 90 and 180 degrees.
ROWS = torch.tensor([[1.0, 0.0, 0.0], [0.985, 0.174, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
WORDS = ["east", "<b>nearly</b>", "north", "west"]


def test_neighbours_are_nearest_first_and_never_the_code_itself() -> None:
    book = Codebook(ROWS * torch.tensor([[5.0], [0.1], [1.0], [2.0]]), WORDS)
    assert book.neighbours(0) == [1, 2, 3]
    assert book.neighbours(3, 1) == [2]
    assert book.name(0) == "east · 0" and Codebook(ROWS).name(0) == "0"


@pytest.mark.parametrize("code", [-1, 4, 1.5, None, "1"])
def test_a_code_that_does_not_exist_is_refused(code: object) -> None:
    with pytest.raises(ConfigError, match="from 0 to 3"):
        Codebook(ROWS).checked(code)


def test_like_codes_have_like_colours() -> None:
    rows = torch.nn.functional.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    rows[1] = rows[0] + 1e-4
    colours = Codebook(rows).colours()
    assert len(colours) == 60 and all(70 <= channel <= 235 for colour in colours for channel in colour)
    assert sum(abs(a - b) for a, b in zip(colours[0], colours[1], strict=True)) < 20
    assert len(set(colours)) > 50


def test_codes_are_replaced_and_the_old_grid_stays() -> None:
    grid = Grid(scale=SMALL, codes=(0, 1, 2, 3))
    changed = replaced(grid, {3: 0, 0: 0})
    assert changed.codes == (0, 1, 2, 0) and grid.codes == (0, 1, 2, 3)
    assert differing(grid, changed) == [3]
    assert grid.place(0) == (1, 1) and grid.place(3) == (2, 2)
    with pytest.raises(ConfigError, match="no cell 4"):
        replaced(grid, {4: 0})


def test_grids_of_two_scales_cannot_be_compared() -> None:
    other = Grid(scale=Scale(index=1, pool=1, side=3, length=9), codes=(0,) * 9)
    with pytest.raises(ConfigError, match="2 x 2 and 3 x 3"):
        differing(Grid(scale=SMALL, codes=(0, 1, 2, 3)), other)
    with pytest.raises(ConfigError, match="3 codes"):
        Grid(scale=SMALL, codes=(1, 2, 3))


def test_a_codebook_is_made_once_and_goes_with_its_model() -> None:
    class Model:
        pass

    books, model = Codebooks(), Model()
    assert books.of(model, ROWS, WORDS) is books.of(model, ROWS, WORDS)
    del model
    assert len(books._kept) == 0
