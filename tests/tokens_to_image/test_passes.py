"""Several codes a pass: what is exact is exact, and what is not is what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from opentar.checkpoints.find import BUNDLED
from opentar.core.errors import ConfigError
from opentar.image_to_tokens.ta_tok import TATok
from opentar.tokens_to_image.ar import ARConfig, ARDetokenizer, ARTransformer
from opentar.tokens_to_image.ar_blocks import Places
from opentar.tokens_to_image.ar_decoding import sample_codes
from opentar.tokens_to_image.passes import NAMED, ONE, PassCounts, Passes, Sheet
from opentar.tokens_to_image.vqgan import VQGAN, VQGANConfig

ALL = {**NAMED, "narrow": Passes(lead=2), "much": Passes(lead=1, guesses=6, guided=0.3, stand_in="window")}


def build(codes: int = 64, **changes: Any) -> ARTransformer:
    torch.manual_seed(0)
    settings = {"feature_size": 8, "codebook_size": 24, "hidden_size": 16, "heads": 2, "mlp_size": 32, "layers": 2}
    model = ARTransformer(ARConfig(**{**settings, "codes": codes, **changes}))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return model.eval()


def features(count: int = 3, length: int = 9) -> torch.Tensor:
    return torch.randn(count, length, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def nano() -> tuple[ARTransformer, torch.Tensor]:
    """Nano's transformer and the features of two pictures that are one code all over."""
    ta_tok = TATok.from_folder(BUNDLED / "nano" / "ta_tok")
    return (
        ARDetokenizer.from_folder(BUNDLED / "nano" / "detok_ar").transformer,
        ta_tok.decode(torch.tensor([[17], [2000]]).expand(2, 36)).detach(),
    )


@pytest.mark.parametrize("guesses", [1, 3, 6])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("codes", [1, 4, 64, 576])
def test_guesses_change_no_code(codes: int, guidance: float, guesses: int) -> None:
    model, counts = build(codes), PassCounts()
    one = sample_codes(model, features(), seed=[7, 7, 9], guidance=guidance)
    made = sample_codes(
        model, features(), seed=[7, 7, 9], guidance=guidance, passes=Passes(guesses=guesses), counts=counts
    )
    assert torch.equal(made, one)
    assert counts.passes <= codes
    assert counts.kept == 3 * codes


def test_guesses_change_no_code_of_nano_and_save_passes(nano: tuple[ARTransformer, torch.Tensor]) -> None:
    counts = PassCounts()
    made = sample_codes(*nano, seed=3, passes=NAMED["jacobi"], counts=counts)
    assert torch.equal(made, sample_codes(*nano, seed=3))
    assert counts.passes < 220


def test_guesses_of_the_likeliest_codes_are_as_exact() -> None:
    model = build()
    settings: dict[str, Any] = {"temperature": 0.0, "guidance": 3.0}
    assert torch.equal(
        sample_codes(model, features(), passes=NAMED["jacobi"], **settings), sample_codes(model, features(), **settings)
    )


@pytest.mark.parametrize("guesses", [0, 2])
def test_a_lead_of_a_whole_row_changes_nothing(guesses: int) -> None:
    model, counts = build(), PassCounts()
    made = sample_codes(model, features(), passes=Passes(lead=8, guesses=guesses), counts=counts)
    assert torch.equal(made, sample_codes(model, features()))
    if guesses == 0:
        assert (counts.passes, counts.computed) == (63, 63 * 3)


@pytest.mark.parametrize("name", ALL)
def test_a_picture_is_the_same_alone_and_in_a_batch(name: str) -> None:
    model, counts = build(256), PassCounts()
    together = sample_codes(model, features(), seed=[4, 2, 8], passes=ALL[name], counts=counts)
    for picture, seed in enumerate([4, 2, 8]):
        alone = sample_codes(model, features()[picture : picture + 1], seed=seed, passes=ALL[name])
        assert torch.equal(alone[0], together[picture])
    assert together.min() >= 0
    assert counts.kept == 3 * 256
    # The first code comes with the prefix.
    assert counts.computed >= 3 * 255
    assert counts.rows >= counts.computed


@pytest.mark.parametrize("side", [16, 24, 32, 64])
@pytest.mark.parametrize("lead", [2, 4])
def test_rows_that_follow_each_other_take_as_few_passes_as_they_can(side: int, lead: int) -> None:
    model, counts = build(side * side, layers=1), PassCounts()
    made = sample_codes(model, features(1), passes=Passes(lead=lead), counts=counts)
    assert counts.passes == side + (side - 1) * lead - 1
    # Each code but the first is predicted once; the end of each row but the last is put in its place later.
    assert counts.computed == side * side - 1 + side - 1
    assert torch.equal(made, sample_codes(model, features(1), passes=Passes(lead=lead)))


@torch.no_grad()
@pytest.mark.parametrize("stand_in", ["window", "above"])
def test_each_code_sees_what_stood_when_it_was_drawn(stand_in: Any) -> None:
    """Rows with a lead against one run without a cache, over all entries of all passes and a mask of their times."""
    side, lead, prefix = 8, 3, 9
    model, given = build(side * side), features(1)
    codes = sample_codes(model, given, temperature=0, guidance=1.0, passes=Passes(lead=lead, stand_in=stand_in))[0]
    # Entries as (pass they enter in, pass they are replaced in, position, code); code c of row r is drawn in pass
    # r lead + c, so it enters in the one after.
    never = 10**6
    entries = []
    for row in range(side):
        for column in range(side):
            place, last = row * side + column, column == side - 1
            entries.append((row * lead + column + 1, never, prefix + place, int(codes[place])))
            if last and row + 1 < side:
                above = codes[row * side + (lead - 1 if stand_in == "window" else 0)]
                entries.append(((row + 1) * lead, row * lead + column + 1, prefix + place, int(above)))
    enters, leaves, positions, values = torch.tensor(entries[:-1]).unbind(-1)
    x = torch.cat([model.prefix(given), model.codes_in(values)[None]], dim=1)
    head = torch.arange(prefix)
    times = torch.cat([torch.zeros(prefix, dtype=torch.int64), enters])
    ends = torch.cat([torch.full((prefix,), never), leaves])
    slots = torch.cat([head, positions])
    seen = (times <= times[:, None]) & (ends > times[:, None]) & (slots <= slots[:, None])
    x = x + model.positions[slots]
    for block in model.blocks:
        x = block(x, None, Places(slots[None], seen[None, None]))
    likeliest = model.logits(model.norm(x))[0].argmax(-1)
    assert likeliest[prefix - 1] == codes[0]
    for place in range(1, side * side):
        row, column = divmod(place, side)
        drawn_in = row * lead + column
        index = ((slots == prefix + place - 1) & (times == drawn_in)).nonzero()
        assert len(index) == 1
        assert likeliest[index[0, 0]] == codes[place], place


def test_what_stands_in_shows() -> None:
    above, window = (
        sample_codes(build(), features(), passes=Passes(lead=2, stand_in=one)) for one in ("above", "window")
    )
    assert not torch.equal(above, window)


@pytest.mark.parametrize("guesses", [0, 4])
def test_guidance_may_end_early(guesses: int) -> None:
    model, counts = build(), PassCounts()
    made = sample_codes(model, features(), guidance=3.0, passes=Passes(guided=0.5, guesses=guesses), counts=counts)
    full = sample_codes(model, features(), guidance=3.0)
    assert torch.equal(made[:, :32], full[:, :32])
    assert not torch.equal(made, full)
    if guesses == 0:
        # Codes 1 to 31 took two rows a picture, 32 to 63 one.
        assert counts.rows == 3 * (31 * 2 + 32)
    else:
        assert torch.equal(made, sample_codes(model, features(), guidance=3.0, passes=Passes(guided=0.5)))
    never = sample_codes(model, features(), guidance=3.0, passes=Passes(guided=0.0, guesses=guesses))
    assert torch.equal(never, sample_codes(model, features(), guidance=1.0))


@pytest.mark.parametrize("name", ALL)
def test_the_callback_counts_codes_and_can_show_and_stop(name: str) -> None:
    canvas = VQGAN(VQGANConfig(channels=(8, 8, 16), blocks=1, latent_channels=8, codebook_size=24, groups=4))
    painter, calls, previews = ARDetokenizer(build(), canvas), [], []

    def look(done: int, total: int, preview: Callable[[], torch.Tensor]) -> None:
        calls.append((done, total))
        if done in (1, 64):
            previews.append(preview())

    made = painter.decode(features(1), callback=look, passes=ALL[name])
    assert torch.equal(previews[-1], made)
    assert previews[0].shape == made.shape
    done = [one for one, _ in calls]
    assert (done[0], done[-1]) == (1, 64)
    assert {total for _, total in calls} == {64}
    assert done == sorted(set(done))

    def stop(done: int, total: int, preview: Callable[[], torch.Tensor]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        painter.decode(features(1), callback=stop, passes=ALL[name])


def test_counts_are_added_up_and_said() -> None:
    counts = PassCounts()
    for _ in range(2):
        sample_codes(build(16), features(1), passes=ONE, counts=counts)
    assert (counts.passes, counts.computed, counts.kept) == (30, 30, 32)
    assert str(counts) == "30 passes, 1.00 codes computed and 1.07 kept in each"


def test_only_what_changes_no_code_is_called_exact() -> None:
    assert {name for name, one in NAMED.items() if one.exact} == {"one", "jacobi"}


def test_a_wrong_guess_ends_what_is_taken_over() -> None:
    sheet = Sheet(Passes(guesses=3), 16, first=5)
    plan = sheet.entries()
    assert [(entry.place, entry.code, entry.sure) for entry in plan] == [
        (0, 5, True),
        *((n, 5, False) for n in (1, 2, 3)),
    ]
    right = sheet.accept(plan, {1: 5, 2: 6, 3: 7, 4: 8, 5: 9, 6: 9, 7: 9})
    assert [entry.place for entry in right] == [1]
    assert sheet.codes[:4] == [5, 5, 6, None]
    assert [(entry.place, entry.code) for entry in sheet.entries()] == [(2, 6), (3, 7), (4, 8), (5, 9)]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"guesses": 7}, "guesses is 7; give a whole number from 0 to 6"),
        ({"guesses": True}, "guesses is True"),
        ({"lead": -1}, "lead is -1"),
        ({"lead": 2.5}, r"lead is 2\.5"),
        ({"stand_in": "left"}, "stand_in is 'left'; give 'above' or 'window'"),
        ({"guided": 1.5}, r"guided is 1\.5"),
        ({"guided": float("nan")}, "guided is nan"),
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Passes(**wrong)
