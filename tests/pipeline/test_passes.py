"""Several codes a pass, asked for by name: jacobi draws the same picture, and what it cannot be asked of is told."""

import pytest

from opentar import Tar
from opentar.checkpoints.settings import PASSES
from opentar.core.errors import ConfigError
from opentar.tokens_to_image.passes import NAMED


class Told:
    """Keeps the last call."""

    def __call__(self, *step: object) -> None:
        self.last = step


def test_the_names_are_those_of_the_modes() -> None:
    assert tuple(NAMED) == PASSES


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


def test_what_has_no_passes_says_so(tiny_model) -> None:
    tar = Tar.from_pretrained(tiny_model)
    with pytest.raises(ConfigError, match="passes is for the AR de-tokenizer, and 'diffusion' draws"):
        tar.generate("a dog", passes="zipar")
    with pytest.raises(
        ConfigError, match=r"passes is 'zip'; choose one, jacobi, zipar, drafts, late\. ?Did you mean 'zipar'"
    ):
        tar.generate("a dog", detok="ar", passes="zip")
    with pytest.raises(TypeError, match="'passed'; there are scale"):
        tar.generate("a dog", passed="zipar")
