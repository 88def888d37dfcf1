"""Forms of requests that no route takes: bodies of a thousand parts, a thousand ranges, and prompts without end."""

import json

import psutil
import pytest

from memory_peak import forget_the_peak, peak

CHAT = "/v1/chat/completions"
POSTED = (CHAT, "/v1/responses", "/v1/images/generations", "/v1/images/edits", "/v1/decisions", "/v1/moderations")


def test_a_body_of_a_thousand_parts_is_refused(live) -> None:
    parts = {f"field{number}": ("a.png", b"\x89PNG" * 250, "image/png") for number in range(1000)}
    forget_the_peak()
    before = psutil.Process().memory_info().rss
    for path in POSTED:
        response = live.http.post(path, files=parts)
        assert response.status_code == 400, (path, response.text)
        assert response.json()["error"]["code"] in ("invalid_json", "unsupported"), path
    assert peak() - before < 64 << 20


def test_ranges_are_not_served(live) -> None:
    ranges = "bytes=" + ",".join(f"{number}-" for number in range(1000))
    for path in ("/v1/models", "/openapi.json", "/health"):
        plain, asked = live.http.get(path), live.http.get(path, headers={"range": ranges})
        assert (asked.status_code, asked.content) == (200, plain.content)
        assert "content-range" not in asked.headers


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "TEXT"}]}),
        ("/v1/responses", {"input": "TEXT"}),
        ("/v1/images/generations", {"prompt": "TEXT"}),
        ("/v1/decisions", {"input": "TEXT", "questions": [{"type": "predicate", "instructions": "?a"}]}),
        ("/v1/moderations", {"input": "TEXT"}),
    ],
)
def test_a_prompt_of_megabytes_is_refused_and_others_are_answered(live, path, body) -> None:
    """It is longer than any model reads; encoding all of it would take long and a multiple of its memory."""
    content = json.dumps(body | {"model": "tiny"}).replace("TEXT", "a dog " * (2 << 20))
    forget_the_peak()
    before = psutil.Process().memory_info().rss
    response = live.http.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text[:300]
    assert response.json()["error"]["code"] == "invalid_prompt" and len(response.text) < 1000
    assert peak() - before < 200 << 20, "12 MB of text"
    assert live.http.get("/health").status_code == 200 and live.idle()
