"""Arguments of callers: numbers of other libraries are numbers, and what is none is told in one line."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from opentar import Tar
from opentar.core.errors import ConfigError, ModelError, shown
from opentar.core.pictures import open_picture


class Index:
    """A whole number as Python knows them."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@pytest.fixture(scope="module")
def tar(tiny_model):
    return Tar.from_pretrained(tiny_model)


@pytest.mark.parametrize("whole", [np.int64, np.uint8, torch.tensor, np.array, Index])
@pytest.mark.parametrize("real", [np.float64, np.float32, np.float16, Fraction])
def test_numbers_of_other_libraries(tar, whole, real):
    plain = tar.generate("a dog", seed=3, n=2, scale=2, steps=1, temperature=0.5, guidance=2.0)
    other = tar.generate(
        "a dog", seed=whole(3), n=whole(2), scale=whole(2), steps=whole(1), temperature=real(0.5), guidance=real(2)
    )
    assert [picture.tobytes() for picture in plain] == [picture.tobytes() for picture in other]
    assert plain[0].info == other[0].info


@pytest.mark.parametrize("whole", [np.int64, Index])
def test_whole_numbers_of_reading(tar, whole):
    picture = Image.new("RGB", (9, 9), "red")
    assert tar.encode(picture, whole(1), words=whole(2)) == tar.encode(picture, 1, words=2)
    assert tar.ask(picture, "dog?", max_new_tokens=whole(4)) == tar.ask(picture, "dog?", max_new_tokens=4)
    assert open_picture(picture, frame=whole(0)).size == (9, 9)
    assert tar.reconstruct(picture, seed=whole(4)).tobytes() == tar.reconstruct(picture, seed=4).tobytes()


WRONG = (True, np.True_, torch.tensor(True), 1.0, np.float64(1), float("nan"), np.nan, "1", None, object(), [1])


@pytest.mark.parametrize("wrong", WRONG, ids=shown)
@pytest.mark.parametrize("name", ["seed", "n"])
def test_what_is_no_whole_number(tar, name, wrong):
    with pytest.raises(ConfigError, match=f"{name} is .*whole number from") as caught:
        tar.generate("a dog", **{name: wrong})
    assert " at 0x" not in str(caught.value)


@pytest.mark.parametrize("wrong", [True, np.float32("nan"), np.float64("inf"), "hot", object()], ids=shown)
@pytest.mark.parametrize("name", ["temperature", "guidance", "detok_guidance"])
def test_what_is_no_number(tar, name, wrong):
    with pytest.raises(ConfigError, match=f"{name} is ") as caught:
        tar.generate("a dog", **{name: wrong})
    assert " at 0x" not in str(caught.value)


@pytest.mark.parametrize("wrong", [None, 3, b"nano", ["nano"], 1.5, object()], ids=shown)
def test_what_is_no_name_of_a_model(wrong):
    with pytest.raises(ModelError, match=f"not by {type(wrong).__name__}"):
        Tar.from_pretrained(wrong)


def test_an_empty_name_of_a_model():
    with pytest.raises(ModelError, match="the name of the model is empty"):
        Tar.from_pretrained("")


def test_a_path_is_a_name_of_a_model(tiny_model):
    assert Tar.from_pretrained(tiny_model).parts.hash == Tar.from_pretrained(str(tiny_model)).parts.hash
