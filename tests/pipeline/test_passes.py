"""Several codes a pass, asked for by name: jacobi draws the same picture, and what it cannot be asked of is told."""

import pytest

from opentar import Tar
from opentar.checkpoints.settings import PASSES
from opentar.core.errors import ConfigError
from opentar.tokens_to_image.passes import NAMED


def test_the_names_are_those_of_the_modes() -> None:
    assert tuple(NAMED) == PASSES


def test_each_name_draws_and_is_told_in_the_picture(tiny_model) -> None:
    tar = Tar.from_pretrained(tiny_model)
    plain = tar.generate("a dog", detok="ar", seed=4)[0]
    for name in PASSES:
        steps = []
        told = lambda *step: steps.append(step)  # noqa: E731
        picture = tar.generate("a dog", detok="ar", seed=4, passes=name, callback_on_step_end=told)[0]
        assert picture.info["passes"] == name and "passes" not in plain.info
        assert steps[-1][0] == "picture" and steps[-1][1] == steps[-1][2]
        if NAMED[name].exact:
            assert picture.tobytes() == plain.tobytes()
    again = tar.reconstruct(plain, detok="ar", passes="zipar")
    assert again.info["passes"] == "zipar"


def test_what_has_no_passes_says_so(tiny_model) -> None:
    tar = Tar.from_pretrained(tiny_model)
    with pytest.raises(ConfigError, match="passes is for the AR de-tokenizer, and 'diffusion' draws"):
        tar.generate("a dog", passes="zipar")
    with pytest.raises(ConfigError, match="'zip' .*Did you mean 'zipar'|passes is 'zip'; choose one, jacobi"):
        tar.generate("a dog", detok="ar", passes="zip")
    with pytest.raises(TypeError, match="'passed'; there are scale"):
        tar.generate("a dog", passed="zipar")
