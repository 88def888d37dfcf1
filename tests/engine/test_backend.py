"""Slots of the torch backend: independent, forked, reused, and the same numbers as one pass over the whole."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from opentar.core.errors import ModelError
from opentar.engine.backends.slots import SlotCache, SlotNumbers
from opentar.engine.backends.torch_backend import PASS_IDS, TorchBackend, _passes
from opentar.language.model import LanguageConfig, TarLanguageModel

SIZES = {"text_size": 300, "codebook_size": 20, "grid_side": 6, "hidden": 64, "layers": 2, "head_size": 32, "mlp": 96}
PIECES = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [1]]
TOKENS = range(300)


@pytest.fixture(params=[(4, 4, "eager"), (4, 2, "sdpa"), (4, 1, "eager")])
def model(request: pytest.FixtureRequest) -> TarLanguageModel:
    heads, kv_heads, attention = request.param
    torch.manual_seed(1)
    config = LanguageConfig(**SIZES, heads=heads, kv_heads=kv_heads, attention=attention, max_length=400)
    return TarLanguageModel(config).eval()


@torch.no_grad()
def whole(model: TarLanguageModel, ids: Sequence[int]) -> Tensor:
    """In one pass, without slots."""
    return model.head(model.hidden(torch.tensor([list(ids)]))[0, -1], TOKENS)


def near(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)


def test_prompts_of_any_length_then_single_ids(model: TarLanguageModel) -> None:
    backend = TorchBackend(model)
    slots = backend.open(3)
    backend.extend(slots, PIECES)
    said = [list(piece) for piece in PIECES]
    for step in range(5):
        found = backend.logits(slots, TOKENS)
        for row, ids in enumerate(said):
            near(found[row], whole(model, ids))
        following = [(step * 31 + row) % 300 for row in range(3)]
        backend.extend(slots, [[token] for token in following])
        for ids, token in zip(said, following, strict=True):
            ids.append(token)


def test_pieces_of_mixed_length_and_any_choice_of_slots(model: TarLanguageModel) -> None:
    backend = TorchBackend(model)
    slots = backend.open(3)
    backend.extend(slots, PIECES)
    backend.extend([slots[2], slots[0]], [[3, 4, 5, 6], [8]])
    backend.extend([slots[1]], [[2, 2]])
    said = [[*PIECES[0], 8], [*PIECES[1], 2, 2], [*PIECES[2], 3, 4, 5, 6]]
    for row in (1, 2, 0):
        near(backend.logits([slots[row]], TOKENS)[0], whole(model, said[row]))
    near(backend.logits(slots[::-1], range(5, 9)), torch.stack([whole(model, ids) for ids in said[::-1]])[:, 5:9])


def test_forks_go_apart_and_slots_are_used_again(model: TarLanguageModel) -> None:
    backend = TorchBackend(model)
    (first,) = backend.open(1)
    backend.extend([first], [PIECES[1]])
    other = backend.fork(first)
    near(backend.logits([other], TOKENS)[0], whole(model, PIECES[1]))
    backend.extend([first, other], [[11], [12]])
    near(backend.logits([first, other], TOKENS), torch.stack([whole(model, [*PIECES[1], end]) for end in (11, 12)]))
    backend.close([first])
    (again,) = backend.open(1)
    assert again == first
    backend.extend([again], [[4, 2]])
    near(backend.logits([again], TOKENS)[0], whole(model, [4, 2]))
    near(backend.logits([other], TOKENS)[0], whole(model, [*PIECES[1], 12]))


def test_slots_grow_with_what_is_asked(model: TarLanguageModel) -> None:
    backend = TorchBackend(model)
    (short,) = backend.open(1)
    backend.extend([short], [[7]])
    ids = [place % 290 for place in range(300)]
    slots = backend.open(5)
    backend.extend(slots, [ids[: 40 * (row + 1)] for row in range(5)])
    backend.extend([short], [[8]])
    near(backend.logits([short], TOKENS)[0], whole(model, [7, 8]))
    near(backend.logits(slots[-1:], TOKENS)[0], whole(model, ids[:200]))
    with pytest.raises(ModelError, match="401 positions were asked for; this model has 400"):
        backend.extend([short], [[1] * 399])
    backend.extend([short], [[1] * 398])
    near(backend.logits([short], TOKENS)[0], whole(model, [7, 8, *[1] * 398]))


def test_long_prompts_go_in_several_passes_of_like_length() -> None:
    lengths = [3, 900, 5, 1000, 800, 4, 30]
    passes = list(_passes(lengths))
    assert sorted(place for part in passes for place in part) == list(range(7))
    assert all(len(part) * max(lengths[place] for place in part) <= PASS_IDS for part in passes)
    assert passes == [[0, 2, 5], [6], [1, 4], [3]]
    assert list(_passes([PASS_IDS + 1, 1])) == [[1], [0]]


def test_the_lowest_numbers_are_handed_out() -> None:
    numbers = SlotNumbers()
    assert numbers.open(3) == [0, 1, 2]
    numbers.close([1])
    assert numbers.open(2) == [1, 3] and numbers.used == 4
    numbers.close([0, 0, 9])
    assert numbers.open(1) == [0]


def test_a_cache_that_cannot_grow_stays_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SlotCache(3, 2, 4, torch.float32, torch.device("cpu"))
    cache.reserve(2, 100)
    for layer, keys in enumerate(cache.keys):
        keys.fill_(layer + 1)
    plain, made = torch.zeros, []

    def short(*args, **kwargs):
        made.append(1)
        if len(made) == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return plain(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", short)
        with pytest.raises(RuntimeError, match="memory"):
            cache.reserve(2, 1000)
    assert (cache.slots, cache.positions) == (2, 128)
    # Later there is room, in another direction.
    cache.reserve(5, 100)
    for layer, keys in enumerate(cache.keys):
        assert keys.shape[0] >= 5 and keys.shape[2] >= 128
        assert keys[:2, :, :128].unique().tolist() == [layer + 1] and not keys[2:].any()
