"""What a reader of the page asks for stands in no log and in no answer to others, even where it fails."""

import json
from typing import Any

import httpx2
import pytest

KEY, PROMPT = "sesame", "an embarrassing red dog"


def _draw(client: httpx2.Client, prompt: str, session: str) -> str:
    """Press the button that draws, as the page does; what its stream tells."""
    config = client.get("/config").json()
    parts = {one["id"]: one for one in config["components"]}
    button = next(number for number, one in parts.items() if one["props"].get("elem_id") == "draw")
    # The same button also stops what another one began; that event has no inputs.
    event = next(
        one
        for one in config["dependencies"]
        if one["inputs"] and [button, "click"] in [list(to) for to in one["targets"]]
    )

    def value(number: int) -> Any:
        props = parts[number]["props"]
        return {"prompt": prompt, "random-seed": False}.get(props.get("elem_id"), props.get("value"))

    body = {
        "data": [value(number) for number in event["inputs"]],
        "fn_index": event["id"],
        "session_hash": session,
        "trigger_id": button,
    }
    joined = client.post("/gradio_api/queue/join", json=body)
    assert joined.status_code == 200, joined.text
    told = ""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            told += line
            if "process_completed" in line or "close_stream" in line:
                break
    return told


def test_nothing_of_a_request_is_logged_or_told_to_others(locked, monkeypatch, caplog) -> None:
    from opentar.serve import painter

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"broken at {PROMPT}")

    monkeypatch.setenv("HF_TOKEN", "hf_ofthehub")
    key = {"authorization": f"Bearer {KEY}"}
    with caplog.at_level("DEBUG"), httpx2.Client(base_url=f"{locked.url}/ui/en", timeout=120, headers=key) as client:
        told = [_draw(client, PROMPT, "one")]
        assert "process_completed" in told[0] and '"success":true' in told[0]
        logged = caplog.text
        with monkeypatch.context() as patch:
            patch.setattr(painter, "paint", broken)
            told.append(_draw(client, PROMPT, "two"))
        assert "the log of the server says why" in told[1] and "broken" not in told[1]
        # What anybody else can ask for, before the door and behind it.
        others = [client.get(path).text for path in ("/", "/config", "/gradio_api/info")]
    with httpx2.Client(base_url=locked.url, timeout=60) as stranger:
        others += [stranger.get(path).text for path in ("/ui", "/ui/en/", "/ui/en/config", "/metrics", "/health")]
        others.append(stranger.get("/metrics", headers=key).text)
    for secret in (KEY, PROMPT, "hf_ofthehub"):
        assert secret not in logged
        assert not [text for text in others if secret in text]
    for secret in (KEY, "hf_ofthehub"):
        assert secret not in caplog.text and not [text for text in told if secret in text]


def test_the_page_is_not_shared(root) -> None:
    """Gradio's tunnel to a machine of others opens with `share`; the page is mounted and never launched."""
    source = "".join(path.read_text(encoding="utf-8") for path in (root / "src/opentar/page").rglob("*.py"))
    assert "mount_gradio_app" in source or "App.create_app" in source
    assert ".launch(" not in source and "share" + "=True" not in source


@pytest.mark.parametrize("path", ["/ui/en/config"])
def test_the_page_tells_a_browser_of_no_other_machine(locked, path) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    config = httpx2.get(locked.url + path, headers=headers, timeout=60).json()
    assert not config.get("share_url") and not config.get("is_space")
    assert "gradio.live" not in json.dumps(config)
