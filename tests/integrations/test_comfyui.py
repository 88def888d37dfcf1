"""The nodes for ComfyUI, called as it calls them: by the names in their classes, in inference mode."""

import numpy as np
import pytest
import torch
from PIL import Image

from opentar import Tar
from opentar.core.errors import ImageError, ModelError, PromptError
from opentar.integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

PROMPT = "a purple car"


@pytest.fixture(scope="module")
def tar():
    return Tar.from_pretrained("nano")


def call(name, **inputs):
    """What ComfyUI does with a node: fields that are not set have their defaults, outputs stand in a tuple."""
    node = NODE_CLASS_MAPPINGS[name]
    fields = node.INPUT_TYPES()["required"]
    given = {key: rest[0]["default"] for key, (_, *rest) in fields.items() if rest} | inputs
    assert set(given) == set(fields)
    with torch.inference_mode():
        made = getattr(node(), node.FUNCTION)(**given)
    assert isinstance(made, tuple) and len(made) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    return made[0]


@pytest.mark.parametrize("name", sorted(NODE_CLASS_MAPPINGS))
def test_fields_have_the_form_that_comfyui_reads(name):
    node = NODE_CLASS_MAPPINGS[name]
    assert name in NODE_DISPLAY_NAME_MAPPINGS and node.CATEGORY == "OpenTar"
    for kind, *rest in node.INPUT_TYPES()["required"].values():
        assert isinstance(kind, list) or kind in ("STRING", "INT", "IMAGE")
        for facts in rest:
            assert facts["default"] in kind if isinstance(kind, list) else True
    assert set(node.RETURN_TYPES) <= {"IMAGE", "STRING"}


def test_both_tables_have_the_same_names():
    assert set(NODE_CLASS_MAPPINGS) == set(NODE_DISPLAY_NAME_MAPPINGS) and len(NODE_CLASS_MAPPINGS) == 3


def test_it_draws_what_tar_draws(tar):
    images = call("OpenTarDraw", prompt=PROMPT, seed=1, count=2, grid="2 (coarsest)", detok="ar")
    assert (images.dtype, images.device.type, images.ndim) == (torch.float32, "cpu", 4)
    assert images.min() >= 0 and images.max() <= 1
    expected = tar.generate(PROMPT, n=2, seed=1, scale=2, detok="ar")
    found = (images * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(found, np.stack([np.array(one) for one in expected]))


def test_every_choice_changes_the_picture():
    plain = call("OpenTarDraw", prompt=PROMPT)
    for changed in ({"seed": 5}, {"grid": "2 (coarsest)"}, {"detok": "ar"}, {"prompt": "three red apples"}):
        assert not torch.equal(call("OpenTarDraw", **({"prompt": PROMPT} | changed)), plain), changed


def test_each_picture_of_a_batch_is_asked_about(tar):
    images = torch.cat([call("OpenTarDraw", prompt=text, seed=1) for text in (PROMPT, "three red apples")])
    pictures = [Image.fromarray((one * 255).round().to(torch.uint8).numpy()) for one in images]
    question = "What color is the car?"
    answers = call("OpenTarAsk", images=images, question=question)
    assert answers == [tar.ask(one, question) for one in pictures]
    assert answers[0] == "purple" != answers[1]
    fine = call("OpenTarAsk", images=images, question=question, grid="0 (finest)")
    assert fine == [tar.ask(one, question, scale=0) for one in pictures]
    assert call("OpenTarDescribe", images=images) == [tar.describe(one) for one in pictures]
    assert all(NODE_CLASS_MAPPINGS[name].OUTPUT_IS_LIST == (True,) for name in ("OpenTarAsk", "OpenTarDescribe"))


def test_the_model_works_outside_of_inference_mode_too():
    images = call("OpenTarDraw", prompt=PROMPT, seed=1)
    node = NODE_CLASS_MAPPINGS["OpenTarDescribe"]()
    assert node.describe(images.clone()) == (call("OpenTarDescribe", images=images),)


def test_four_channels_and_values_a_little_outside_are_read(tar):
    red = torch.zeros(1, 40, 30, 4)
    red[..., 0] = 1.004
    red[..., 3] = 1
    expected = tar.describe(Image.new("RGB", (30, 40), "red"))
    assert call("OpenTarDescribe", images=red) == [expected]


@pytest.mark.parametrize("shape", [(40, 30, 3), (0, 40, 30, 3), (1, 1, 40, 30, 3), (1, 40, 30, 2)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ImageError, match="shape"):
        call("OpenTarDescribe", images=torch.zeros(shape))


def test_nan_is_refused():
    with pytest.raises(ImageError, match="NaN"):
        call("OpenTarDescribe", images=torch.full((1, 40, 30, 3), float("nan")))


def test_errors_are_those_of_tar():
    with pytest.raises(ModelError, match="nanno"):
        call("OpenTarDraw", prompt=PROMPT, model="nanno")
    with pytest.raises(PromptError, match="empty"):
        call("OpenTarDraw", prompt="  ")
