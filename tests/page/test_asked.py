"""What the page asks a service for, with nano."""

import asyncio
import io

import pytest
from PIL import Image, ImageChops

from opentar.core.errors import ConfigError, OpenTarError, PromptError
from opentar.page.asked import Answer, Asker, Drawn, Exchange, Looked, Spelled, pair_of, told
from opentar.page.dialect import replaced
from opentar.serve.refused import LimitError, UnknownModelError

OPTIONS = {"detok": "diffusion", "scale": 2, "guidance": 1.0}


async def drawn(asker: Asker, prompt: str = "a red apple", n: int = 1, seed: int = 3) -> list:
    return [one async for one in asker.draw(None, prompt, n, seed, OPTIONS)]


def file_of(picture: Image.Image) -> bytes:
    kept = io.BytesIO()
    picture.save(kept, "PNG")
    return kept.getvalue()


def test_a_picture_is_spelled_then_looked_at_then_drawn_as_the_library_draws_it(with_asker) -> None:
    async def work(asker: Asker) -> None:
        steps = await drawn(asker, n=2)
        spelled = [one for one in steps if isinstance(one, Spelled)]
        counted = [sum(code is not None for code in one.codes) for one in spelled]
        assert counted == list(range(1, 17)) and len(spelled[0].codes) == 16 and spelled[0].side == 4
        assert any(isinstance(one, Looked) for one in steps)
        pictures = sorted((one for one in steps if isinstance(one, Drawn)), key=lambda one: one.seed)
        assert [one.seed for one in pictures] == [3, 4]
        assert pictures[0].codes == spelled[-1].codes
        tar = asker.service.shelf.entry(None).loaded.tar
        (plain,) = tar.generate("a red apple", seed=4, scale=2)
        assert ImageChops.difference(pictures[1].picture, plain).getextrema() == ((0, 0),) * 3
        assert asker.service.active == 0

    with_asker(work)


def test_codes_are_read_replaced_and_painted(with_asker) -> None:
    async def work(asker: Asker) -> None:
        one = (await drawn(asker))[-1]
        grid, book = await asker.grid(None, one.codes)
        assert grid.codes == one.codes and book.size == 4096
        again = [step async for step in asker.paint(None, grid, one.seed)][-1]
        assert ImageChops.difference(again.picture, one.picture).getbbox() is None, "the same codes, the same picture"
        other = replaced(grid, {5: book.neighbours(grid.codes[5])[-1], 6: 7})
        changed = [step async for step in asker.paint(None, other, one.seed)][-1]
        assert changed.codes == other.codes
        assert ImageChops.difference(changed.picture, one.picture).getbbox() is not None
        read, _ = await asker.grid(None, file_of(one.picture), 1)
        assert read.scale.side == 6

    with_asker(work)


def test_questions_and_how_sure_the_model_is(with_asker) -> None:
    async def work(asker: Asker) -> None:
        one = (await drawn(asker))[-1]
        said = [step async for step in asker.ask(None, one.codes, "Is there a dog?")]
        assert said[-1].text == "no" and 0.5 < said[-1].confidence <= 1
        tar = asker.service.shelf.entry(None).loaded.tar
        described = [step async for step in asker.ask(None, file_of(one.picture), None)][-1]
        assert described == Answer(text=tar.describe(one.picture))
        before = [Exchange(question="What color is it?", answer="red")] * 9
        assert [step async for step in asker.ask(None, one.codes, "Is there a cat?", before)][-1].confidence is not None

    with_asker(work)


def test_whoever_leaves_lets_go(with_asker) -> None:
    async def work(asker: Asker) -> None:
        task = asyncio.ensure_future(drawn(asker, n=8))
        while not asker.service.active:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asker.service.active == 0

    with_asker(work)


def test_what_cannot_be_done_is_told(with_asker) -> None:
    async def work(asker: Asker) -> None:
        for wrong, kind in (
            (drawn(asker, prompt=" "), PromptError),
            (drawn(asker, n=9), ConfigError),
            (drawn(asker, seed=-1), ConfigError),
            (asker.grid("other", b"x"), UnknownModelError),
            (asker.grid(None, b"no picture"), OpenTarError),
            (asker.grid(None, b"x" * (21 << 20)), LimitError),
        ):
            with pytest.raises(kind):
                await wrong
        assert asker.service.active == 0
        assert asker.abilities() == ("draw", "read", "say")

    with_asker(work)


def test_which_answers_are_a_yes_or_a_no() -> None:
    assert pair_of("yes") == ("yes", "no") and pair_of("No.") == ("No.", "Yes")
    assert pair_of("否") == ("否", "是") and pair_of(" 没有 ") == ("没有", "有")
    assert pair_of("a red apple") is None and pair_of("") is None


def test_a_fault_of_ours_is_told_without_its_text() -> None:
    assert told(PromptError("say more")) == "say more"
    assert "secret" not in told(RuntimeError("secret"))
