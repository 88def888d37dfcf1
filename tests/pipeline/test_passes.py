"""Several codes a pass, asked for by name: jacobi draws the same picture, and what it cannot be asked of is told."""

import pytest

from opentar import Tar
from opentar.checkpoints.settings import CODE_PASSES, PASSES
from opentar.core.errors import ConfigError
from opentar.tokens_to_image.passes import NAMED, OF_LANGUAGE


class Told:
    """Keeps the last call."""

    def __call__(self, *step: object) -> None:
        self.last = step


def test_the_names_are_those_of_the_modes() -> None:
    assert tuple(NAMED) == PASSES
    assert tuple(OF_LANGUAGE) == CODE_PASSES


def test_each_name_draws_and_is_told_in_the_picture(tiny_model) -> None:
    tar = Tar.from_pretrained(tiny_model)
    plain = tar.generate("a dog", detok="ar", seed=4)[0]
    for name in PASSES:
        steps = Told()
        picture = tar.generate("a dog", detok="ar", seed=4, passes=name, callback_on_step_end=steps)[0]
        assert picture.info["passes"] == name and "passes" not in plain.info
        assert steps.last[0] == "picture" and steps.last[1] == steps.last[2]
        if NAMED[name].exact:
            assert picture.tobytes() == plain.tobytes()
    again = tar.reconstruct(plain, detok="ar", passes="zipar")
    assert again.info["passes"] == "zipar"


def test_codes_of_the_language_model_are_drawn_by_name() -> None:
    tar = Tar.from_pretrained("nano")
    options = {"guidance": 2.0, "temperature": 1.0, "seed": 4, "steps": 1}
    plain = tar.generate("a red apple", **options)[0]
    drawn = {name: tar.generate("a red apple", code_passes=name, **options)[0] for name in CODE_PASSES}
    assert all(picture.info["code_passes"] == name for name, picture in drawn.items())
    assert "code_passes" not in plain.info
    assert drawn["one"].tobytes() == drawn["jacobi"].tobytes() == plain.tobytes() != drawn["zipar"].tobytes()


def test_both_machines_may_draw_several_a_pass(tiny_model) -> None:
    tar = Tar.from_pretrained(tiny_model)
    told: list[tuple[str, int, int]] = []
    picture = tar.generate(
        "a dog",
        scale=0,
        detok="ar",
        code_passes="zipar",
        passes="zipar",
        callback_on_step_end=lambda *step: told.append(step),
    )[0]
    assert (picture.info["code_passes"], picture.info["passes"]) == ("zipar", "zipar")
    codes = [step for work, step, _ in told if work == "codes"]
    assert codes == list(range(1, 145))


def test_what_has_no_passes_says_so(tiny_model) -> None:
    tar = Tar.from_pretrained(tiny_model)
    with pytest.raises(ConfigError, match="passes is for the AR de-tokenizer, and 'diffusion' draws"):
        tar.generate("a dog", passes="zipar")
    with pytest.raises(
        ConfigError, match=r"passes is 'zip'; choose one, jacobi, zipar, drafts, late\. ?Did you mean 'zipar'"
    ):
        tar.generate("a dog", detok="ar", passes="zip")
    with pytest.raises(ConfigError, match=r"code_passes is 'drafts'; choose one, jacobi, zipar"):
        tar.generate("a dog", code_passes="drafts")
    with pytest.raises(TypeError, match="'passed'; there are scale"):
        tar.generate("a dog", passed="zipar")
