"""Conversations with OpenAI's own client: text, streams, pictures in, pictures out."""

import asyncio
import base64
import io
import math

import openai
import pytest
from PIL import Image

QUESTION = {"role": "user", "content": "is there a cat?"}


def shows(url: str, text: str = "is there a cat?", **more) -> dict:
    parts = [{"type": "image_url", "image_url": {"url": url, **more}}, {"type": "text", "text": text}]
    return {"role": "user", "content": parts}


def test_an_answer_has_all_that_the_client_reads(live) -> None:
    done = live.client.chat.completions.create(model="tiny", messages=[QUESTION], max_tokens=5)
    (choice,) = done.choices
    assert (done.object, done.model, choice.index) == ("chat.completion", "tiny", 0)
    assert done.id.startswith("chatcmpl-") and done.created > 1_700_000_000 and done.system_fingerprint
    assert choice.message.role == "assistant"
    assert isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert done.usage.completion_tokens <= 5
    assert done._request_id.startswith("req_")


def test_a_stream_says_the_same_and_ends_as_it_should(live) -> None:
    asked = {"model": "tiny", "messages": [QUESTION], "max_tokens": 20, "seed": 3, "temperature": 1.0}
    whole = live.client.chat.completions.create(**asked)
    chunks = list(live.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    *growing, last = chunks
    text = "".join(chunk.choices[0].delta.content or "" for chunk in growing)
    assert text == whole.choices[0].message.content
    assert growing[0].choices[0].delta.role == "assistant"
    reasons = [chunk.choices[0].finish_reason for chunk in growing]
    assert reasons == [None] * (len(growing) - 1) + [whole.choices[0].finish_reason]
    assert (last.choices, last.usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_ends_with_done(live) -> None:
    body = {"model": "tiny", "messages": [QUESTION], "max_tokens": 3, "stream": True}
    with live.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line]
        assert response.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)


def test_the_same_seed_says_the_same_and_another_something_else(live) -> None:
    def said(seed: int) -> str:
        done = live.client.chat.completions.create(
            model="tiny", messages=[QUESTION], max_tokens=30, temperature=2.0, seed=seed
        )
        return done.choices[0].message.content

    assert said(1) == said(1)
    assert len({said(seed) for seed in range(4)}) > 1


def test_both_limits_are_kept_and_the_shorter_counts(live) -> None:
    asked = {"model": "tiny", "messages": [QUESTION], "temperature": 1.0, "seed": 5}
    for limits, most in (({"max_tokens": 4}, 4), ({"max_completion_tokens": 3}, 3)):
        done = live.client.chat.completions.create(**asked, **limits)
        assert (done.usage.completion_tokens, done.choices[0].finish_reason) == (most, "length")
    done = live.client.chat.completions.create(**asked, max_tokens=9, max_completion_tokens=2)
    assert done.usage.completion_tokens == 2


def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(live) -> None:
    asked = {"model": "tiny", "messages": [QUESTION], "max_tokens": 40, "temperature": 2.0, "seed": 2}
    whole = live.client.chat.completions.create(**asked).choices[0].message.content
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    assert len(stop) == 3
    for given in (stop, ["never said, surely", stop]):
        cut = live.client.chat.completions.create(**asked, stop=given)
        assert cut.choices[0].message.content == whole[: whole.index(stop)].rstrip()
        assert cut.choices[0].finish_reason == "stop"
        assert cut.usage.completion_tokens < 40
        chunks = live.client.chat.completions.create(**asked, stop=given, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == cut.choices[0].message.content
    assert live.idle()


def test_logprobs_are_those_of_the_model(live) -> None:
    asked = {"model": "tiny", "messages": [QUESTION], "max_tokens": 6, "logprobs": True, "top_logprobs": 3}
    done = live.client.chat.completions.create(**asked)
    content = done.choices[0].logprobs.content
    assert len(content) == done.usage.completion_tokens == 6
    for one in content:
        # The likeliest is taken where no temperature is asked for.
        assert one.token == one.top_logprobs[0].token
        assert one.logprob == one.top_logprobs[0].logprob <= 0
        assert len(one.top_logprobs) == 3
        assert sum(math.exp(other.logprob) for other in one.top_logprobs) <= 1.0001
    chunks = live.client.chat.completions.create(**asked, stream=True)
    streamed = [one for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert streamed == content
    plain = live.client.chat.completions.create(**asked | {"logprobs": False, "top_logprobs": None})
    assert plain.choices[0].logprobs is None


def test_pictures_are_read_in_any_number(live, png, as_url) -> None:
    side = live.service.shelf.entry(None).loaded.vocab.scales
    counts = []
    for count in (1, 2, 3):
        parts = [{"type": "image_url", "image_url": {"url": as_url(png)}}] * count
        message = {"role": "user", "content": [*parts, {"type": "text", "text": "is there a cat?"}]}
        done = live.client.chat.completions.create(model="tiny", messages=[message], max_tokens=4)
        counts.append(done.usage.prompt_tokens)
    assert counts[2] - counts[1] == counts[1] - counts[0] == side[1].length + 1
    for detail, scale in (("low", 2), ("high", 0)):
        done = live.client.chat.completions.create(
            model="tiny", messages=[shows(as_url(png), detail=detail)], max_tokens=4
        )
        assert done.usage.prompt_tokens - counts[0] == side[scale].length - side[1].length


def test_a_picture_is_read_before_its_text_wherever_it_stands(live, png, as_url) -> None:
    message = shows(as_url(png))
    turned = {"role": "user", "content": message["content"][::-1]}
    answers = {
        live.client.chat.completions.create(model="tiny", messages=[one], max_tokens=12).choices[0].message.content
        for one in (message, turned)
    }
    assert len(answers) == 1
    alone = {"role": "user", "content": message["content"][:1]}
    done = live.client.chat.completions.create(model="tiny", messages=[alone], max_tokens=3)
    assert done.usage.completion_tokens == 3


def test_a_picture_is_an_answer_and_can_be_asked_about_without_encoding_it(live) -> None:
    known = live.service.known
    messages = [{"role": "user", "content": "three red apples"}]
    drawn = live.client.chat.completions.create(model="tiny", messages=messages, modalities=["image"], seed=4)
    (image,) = drawn.choices[0].message.images
    head, _, content = image["image_url"]["url"].partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert head == "data:image/png;base64" and picture.size == (32, 32)
    assert picture.info["prompt"] == "three red apples" and picture.info["seed"] == "4"
    assert (drawn.choices[0].finish_reason, drawn.usage.completion_tokens) == ("stop", 36)

    hits, misses = known.hits, known.misses
    for message in (drawn.choices[0].message, drawn.choices[0].message.model_dump()):
        asked = [*messages, message, QUESTION]
        done = live.client.chat.completions.create(model="tiny", messages=asked, max_tokens=4)
        assert done.usage.prompt_tokens > 36
    done = live.client.chat.completions.create(model="tiny", messages=[shows(image["image_url"]["url"])], max_tokens=4)
    assert done.usage.prompt_tokens > 36
    assert (known.hits - hits, known.misses - misses) == (3, 0)


def test_a_picture_can_be_drawn_in_a_conversation_and_streamed(live) -> None:
    messages = [
        {"role": "system", "content": "draw well"},
        {"role": "user", "content": "a dog"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "three red apples"},
    ]
    asked = {"model": "tiny", "messages": messages, "modalities": ["text", "image"], "seed": 1}
    whole = live.client.chat.completions.create(**asked, extra_body={"image": {"output_format": "webp"}})
    chunks = list(
        live.client.chat.completions.create(**asked, stream=True, extra_body={"image": {"output_format": "webp"}})
    )
    images = [one for chunk in chunks for one in getattr(chunk.choices[0].delta, "images", None) or []]
    assert images == whole.choices[0].message.images
    assert images[0]["image_url"]["url"].startswith("data:image/webp;base64,")
    assert chunks[-1].choices[0].finish_reason == "stop"
    alone = live.client.chat.completions.create(
        **asked | {"messages": messages[-1:]}, extra_body={"image": {"output_format": "webp"}}
    )
    assert alone.usage.prompt_tokens < whole.usage.prompt_tokens - 10


def test_the_quality_of_a_drawn_answer_is_its_grid(live) -> None:
    for quality, codes in (("low", 16), ("medium", 36), ("high", 144)):
        done = live.client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "a dog"}],
            modalities=["image"],
            extra_body={"image": {"quality": quality, "detok": "ar"}},
        )
        assert done.usage.completion_tokens == codes


def test_the_async_client_works(live) -> None:
    async def talk() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
            asked = {"model": "tiny", "messages": [QUESTION], "max_tokens": 8}
            whole = await client.chat.completions.create(**asked)
            text = ""
            async for chunk in await client.chat.completions.create(**asked, stream=True):
                text += chunk.choices[0].delta.content or ""
            return text, whole.choices[0].message.content

    streamed, whole = asyncio.run(talk())
    assert streamed == whole


BAD = {
    "messages": [
        [],
        "hello",
        [{"role": "user"}],
        [{"role": "tool", "content": "a", "tool_call_id": "x"}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
        [{"role": "user", "content": "a\0b"}],
        [{"role": "user", "content": "word " * 600}],
        [{"role": "assistant", "content": "I speak last"}],
        [{"role": "assistant", "content": None}, QUESTION],
        [{"role": "assistant", "content": "a", "tool_calls": [{"id": "x"}]}, QUESTION],
        [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}, QUESTION],
        [QUESTION] * 1001,
        [QUESTION | {"secret": 1}],
    ],
    "max_tokens": [0, -1, 10**9, "5", True, 1.5],
    "temperature": [-0.1, 2.1, "1", True],
    "top_p": [-1, 1.1],
    "seed": [-1, 2**63, 1.5, "1"],
    "stop": ["", ["a"] * 5, 3, [""]],
    "n": [2, 10**6],
    "top_logprobs": [21, 3],
    "modalities": [[], ["audio"], "image"],
    "stream_options": [{"include_usage": True}],
    "response_format": [{"type": "json_object"}, {"type": "json_schema", "json_schema": {}}],
    "tools": [[{"type": "function", "function": {"name": "f"}}]],
    "frequency_penalty": [1.0],
    "logit_bias": [{"1": 2}],
    "reasoning_effort": ["high"],
    "chat_template": ["{{ x }}"],
    "image": [{"quality": "best"}, {"steps": 0}, {"bogus": 1}],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_what_cannot_be_done_is_refused_and_named(live, field, value) -> None:
    body = {"model": "tiny", "messages": [QUESTION]} | {field: value}
    response = live.http.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["type"] == "invalid_request_error" and error["code"]
    assert (error["param"] or "").startswith(field), error


def test_fields_that_say_nothing_are_taken(live) -> None:
    done = live.client.chat.completions.create(
        model="tiny",
        messages=[QUESTION | {"name": "me"}],
        max_tokens=2,
        n=1,
        tools=[],
        tool_choice="none",
        frequency_penalty=0,
        presence_penalty=0.0,
        response_format={"type": "text"},
        user="somebody",
        metadata={"a": "b"},
        store=False,
        modalities=["text"],
    )
    assert done.usage.completion_tokens == 2


def test_null_is_left_out(live) -> None:
    names = ("stream", "stop", "max_tokens", "temperature", "tools", "n", "seed", "logprobs", "modalities", "image")
    body = {"model": "tiny", "messages": [QUESTION], "max_completion_tokens": 2} | dict.fromkeys(names)
    assert live.http.post("/v1/chat/completions", json=body).status_code == 200
    body = {"prompt": "a dog"} | dict.fromkeys(("n", "size", "quality", "output_format", "stream", "partial_images"))
    assert live.http.post("/v1/images/generations", json=body).status_code == 200
    for missing in ({"model": None}, {"messages": None}):
        response = live.http.post("/v1/chat/completions", json={"model": "tiny", "messages": [QUESTION]} | missing)
        assert response.json()["error"]["code"] == "missing_required_parameter"
    response = live.http.post("/v1/images/generations", json={"prompt": "a dog", "bogus": None})
    assert response.json()["error"]["code"] == "unknown_parameter"


def test_pictures_cannot_be_edited_yet(live, png, as_url) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        live.client.chat.completions.create(model="tiny", messages=[shows(as_url(png))], modalities=["image"])
    assert (told.value.code, told.value.param) == ("unsupported", "messages[0].content")
