"""Pictures with OpenAI's own client."""

import base64
import dataclasses
import io

import openai
import pytest
from PIL import Image

from opentar.checkpoints.model_folder import read_config, write_model


def opened(content: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_pictures_come_in_the_order_of_their_seeds_and_are_those_of_the_library(live, tiny_model) -> None:
    from opentar import Tar

    found = live.client.images.generate(model="tiny", prompt="three red apples", n=3, extra_body={"seed": 7})
    own = Tar.from_pretrained(tiny_model)
    assert [one.seed for one in found.data] == [7, 8, 9]
    for number, one in enumerate(found.data):
        picture = opened(one.b64_json)
        expected = own.generate("three red apples", seed=7 + number)[0]
        assert picture.convert("RGB").tobytes() == expected.tobytes()
        assert {key: picture.info[key] for key in ("prompt", "seed", "model_hash")} == {
            key: expected.info[key] for key in ("prompt", "seed", "model_hash")
        }
    assert (found.size, found.quality, found.output_format, found.background) == ("32x32", "medium", "png", "opaque")
    assert found.usage.output_tokens == 3 * 36
    assert found.usage.total_tokens == found.usage.input_tokens + found.usage.output_tokens
    assert found.usage.input_tokens_details.text_tokens == found.usage.input_tokens


def test_the_model_may_be_left_out_and_seeds_differ_then(live) -> None:
    pictures = [live.http.post("/v1/images/generations", json={"prompt": "a dog"}).json() for _ in range(2)]
    assert pictures[0]["data"][0]["seed"] != pictures[1]["data"][0]["seed"]


def test_words_that_were_never_learned_are_told(live) -> None:
    known, unknown = (
        live.client.images.generate(model="tiny", prompt=prompt).data[0].revised_prompt
        for prompt in ("a red dog", "a red xylophone dog")
    )
    assert (known, unknown) == (None, "a red dog")


@pytest.mark.parametrize(("kind", "format"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats(live, kind, format) -> None:
    found = live.client.images.generate(model="tiny", prompt="a dog", output_format=kind)
    assert opened(found.data[0].b64_json).format == format
    assert found.output_format == kind


@pytest.mark.parametrize(("quality", "codes"), [("low", 16), ("medium", 36), ("high", 144), ("auto", 36)])
def test_the_quality_is_the_grid(live, quality, codes) -> None:
    found = live.client.images.generate(model="tiny", prompt="a dog", quality=quality)
    assert found.usage.output_tokens == codes
    assert found.quality == ("medium" if quality == "auto" else quality)


def test_a_setting_changes_the_picture(live) -> None:
    def drawn(**more: object) -> str:
        return (
            live.client.images.generate(model="tiny", prompt="a dog", extra_body={"seed": 1, **more}).data[0].b64_json
        )

    plain = opened(drawn()).tobytes()
    assert opened(drawn()).tobytes() == plain
    for change in ({"detok": "ar"}, {"steps": 8}, {"temperature": 0.0}, {"detok_guidance": 9.0}, {"seed": 2}):
        assert opened(drawn(**change)).tobytes() != plain, change


@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_previews_come_in_order_and_the_last_event_is_the_picture(live, wanted) -> None:
    asked = {"model": "tiny", "prompt": "three red apples"}
    body = {"seed": 5, "steps": 8}
    whole = live.client.images.generate(**asked, extra_body=body)
    events = list(live.client.images.generate(**asked, stream=True, partial_images=wanted, extra_body=body))
    *partial, last = events
    assert [event.type for event in partial] == ["image_generation.partial_image"] * wanted
    assert [event.partial_image_index for event in partial] == list(range(wanted))
    assert last.type == "image_generation.completed"
    assert last.b64_json == whole.data[0].b64_json
    assert last.usage == type(last.usage)(**whole.usage.model_dump(exclude={"output_tokens_details"}))
    for event in events:
        assert opened(event.b64_json).size == (32, 32)
        assert (event.size, event.quality, event.output_format) == ("32x32", "medium", "png")
        assert (event.background, event.created_at > 1_700_000_000) == ("opaque", True)
    assert len({event.b64_json for event in events}) == wanted + 1


def test_a_stream_names_its_events_and_ends_with_done(live) -> None:
    body = {"prompt": "a dog", "stream": True, "partial_images": 1}
    with live.http.stream("POST", "/v1/images/generations", json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    assert [line for line in lines if line.startswith("event:")] == [
        "event: image_generation.partial_image",
        "event: image_generation.completed",
    ]
    assert lines[-1] == "data: [DONE]"


BAD = {
    "prompt": ["", "   ", "?!", 5, "a\0b", "word " * 600],
    "n": [0, 11, 10**6, "1", True],
    "size": ["1024x1024", "99999x99999", "0x0", "32x", "big", "32x32x32", "1" * 500, 32],
    "quality": ["best", 3],
    "output_format": ["gif", "svg", "exe"],
    "response_format": ["url"],
    "background": ["transparent"],
    "output_compression": [50],
    "style": ["vivid"],
    "seed": [-1, "1", 2**63],
    "detok": ["diffusio", "ar_512", "../../x"],
    "steps": [0, 10**6],
    "temperature": [-1, 11],
    "partial_images": [4, -1],
    "bogus": [1],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_what_cannot_be_done_is_refused_and_named(live, field, value) -> None:
    response = live.http.post("/v1/images/generations", json={"prompt": "a dog"} | {field: value})
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert (error["type"], error["param"]) == ("invalid_request_error", field)
    assert error["code"] in {
        "invalid_value", "invalid_type", "invalid_prompt", "unsupported", "unknown_parameter"
    }  # fmt: skip


def test_settings_that_do_not_go_together_are_refused(live) -> None:
    for field, body in (("n", {"stream": True, "n": 2}), ("partial_images", {"partial_images": 1})):
        response = live.http.post("/v1/images/generations", json={"prompt": "a dog"} | body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, field)
    told = live.http.post("/v1/images/generations", json={"prompt": "a dog", "detok": "ar", "steps": 5})
    assert told.status_code == 400


def test_edits_say_what_the_models_can_do(live, png) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        live.client.images.edit(model="tiny", image=png, prompt="make it red")
    assert told.value.code == "unsupported"
    assert "tiny can draw, read, say" in told.value.message


def test_a_further_painter_is_loaded_when_it_is_asked_for(serving, tiny_model, tmp_path) -> None:
    """`size` chooses among de-tokenizers; those whose size their name tells are not loaded for the choice."""
    config = read_config(tiny_model)
    parts = {name: tiny_model / name for name in config.parts} | {"detok_ar_64": tiny_model / "detok_ar"}
    folder = tmp_path / "more"
    write_model(folder, dataclasses.replace(config, parts=tuple(parts)), parts)
    with serving({"more": folder}) as live:
        model = live.service.shelf.entry(None).loaded
        assert set(model.sides) == {"diffusion"}
        response = live.http.post("/v1/images/generations", json={"prompt": "a dog", "size": "1024x1024"})
        assert response.status_code == 400 and "draws 32x32, 64x64, not 1024x1024" in response.text
        assert set(model.sides) == {"diffusion", "ar"}
        live.client.images.generate(model="more", prompt="a dog", size="64x64")
        assert set(model.sides) == {"diffusion", "ar", "ar_64"}
        assert live.client.images.generate(model="more", prompt="a dog", size="32x32").size == "32x32"
