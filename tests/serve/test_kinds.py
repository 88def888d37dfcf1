"""Every route with models of every kind: what a model lacks is 400 `unsupported`, with what it can do.

Every model reads and says, for TA-Tok and the language model are in each; what differs are its de-tokenizers.
"""

import dataclasses
from typing import Any

import pytest

from opentar.checkpoints.model_folder import read_config, write_model
from opentar.checkpoints.settings import DrawSettings

TEXT = [{"role": "user", "content": "a dog"}]
TOOLS = [{"type": "image_generation"}]
YES_NO = [{"type": "predicate", "instructions": "Is there a dog?"}]
CHAT, RESPONSES, DRAW = "/v1/chat/completions", "/v1/responses", "/v1/images/generations"


def bodies(model: str, url: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    """What is asked for (draw, read, say or edit), method, path and body, for every route and every such task of it."""
    shown = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    seen = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    found = [
        ("say", "POST", CHAT, {"messages": TEXT, "max_tokens": 2}),
        ("read", "POST", CHAT, {"messages": shown, "max_tokens": 2}),
        ("draw", "POST", CHAT, {"messages": TEXT, "modalities": ["image"]}),
        ("say", "POST", RESPONSES, {"input": "a dog", "max_output_tokens": 2}),
        ("read", "POST", RESPONSES, {"input": seen, "max_output_tokens": 2}),
        ("draw", "POST", RESPONSES, {"input": "a dog", "tools": TOOLS}),
        ("draw", "POST", DRAW, {"prompt": "a dog"}),
        ("edit", "POST", "/v1/images/edits", {"prompt": "a dog"}),
        ("say", "POST", "/v1/decisions", {"input": "a dog", "questions": YES_NO}),
        ("read", "POST", "/v1/decisions", {"input": seen, "questions": YES_NO}),
        ("say", "POST", "/v1/moderations", {"input": "a dog"}),
        ("read", "POST", "/v1/moderations", {"input": [{"type": "image_url", "image_url": {"url": url}}]}),
    ]
    streamed = [
        (task, method, path, body | {"stream": True})
        for task, method, path, body in found
        if path in (CHAT, RESPONSES, DRAW)
    ]
    return [(task, method, path, body | {"model": model}) for task, method, path, body in found + streamed]


WITHOUT_A_MODEL = {
    ("GET", "/v1/models"), ("GET", "/v1/models/{model:path}"), ("GET", "/health"), ("GET", "/ready"),
    ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/v1/responses/{response}"),
    ("DELETE", "/v1/responses/{response}"),
}  # fmt: skip


@pytest.fixture(scope="module")
def kinds(serving, tiny_model, tmp_path_factory):
    """A server of a whole model, one that only reads, and one for each of its de-tokenizers."""
    config = read_config(tiny_model)
    folders = {"tiny": tiny_model}
    for name, left in {"reading": (), "flow": ("detok_diffusion",), "ar": ("detok_ar",)}.items():
        parts = ("ta_tok", "language", *left)
        draw = dataclasses.replace(config.defaults.draw, detok=left[0].removeprefix("detok_") if left else "diffusion")
        defaults = dataclasses.replace(config.defaults, draw=draw if left else DrawSettings())
        folders[name] = tmp_path_factory.mktemp(name) / name
        own = dataclasses.replace(config, name=name, parts=parts, defaults=defaults)
        write_model(folders[name], own, {part: tiny_model / part for part in parts})
    with serving(folders) as live:
        yield live
        assert live.idle()


def every(live) -> set[tuple[str, str]]:
    """Methods and paths of the app; HEAD is that of GET."""
    found: set[tuple[str, str]] = set()

    def walk(those) -> None:
        for route in those:
            if hasattr(route, "methods") and hasattr(route, "path"):
                found.update((method, route.path) for method in route.methods if method != "HEAD")
            else:
                walk(getattr(route, "routes", None) or route.original_router.routes)

    walk(live.app.routes)
    return found


def test_no_route_is_left_out_here(kinds) -> None:
    asked = {(method, path) for _, method, path, _ in bodies("tiny", "")}
    assert every(kinds) == asked | WITHOUT_A_MODEL


def test_models_tell_what_they_can_do(kinds) -> None:
    told = {one["id"]: one["abilities"] for one in kinds.http.get("/v1/models").json()["data"]}
    whole = ["draw", "read", "say"]
    assert told == {"tiny": whole, "reading": ["read", "say"], "flow": whole, "ar": whole}


@pytest.mark.parametrize("model", ["tiny", "reading", "flow", "ar"])
def test_what_a_model_lacks_is_unsupported_and_all_else_is_done(kinds, png, as_url, model) -> None:
    able = kinds.http.get(f"/v1/models/{model}").json()["abilities"]
    for task, method, path, body in bodies(model, as_url(png)):
        response = kinds.http.request(method, path, json=body)
        if task in able:
            assert response.status_code == 200, (path, body, response.text)
            continue
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, "unsupported", "model"), (path, body)
        assert f"{model} can {', '.join(able)}" in error["message"], error


@pytest.mark.parametrize(("model", "lacks", "has"), [("flow", "ar", "diffusion"), ("ar", "diffusion", "ar")])
def test_a_painter_that_a_model_lacks_is_unsupported(kinds, model, lacks, has) -> None:
    for path, body in (
        (DRAW, {"prompt": "a dog", "detok": lacks}),
        (CHAT, {"messages": TEXT, "modalities": ["image"], "image": {"detok": lacks}}),
        (RESPONSES, {"input": "a dog", "tools": [TOOLS[0] | {"detok": lacks}]}),
    ):
        error = kinds.http.post(path, json=body | {"model": model}).json()["error"]
        assert error["code"] == "unsupported" and has in error["message"], error
