"""Every error is OpenAI's object, on every route; what comes in any shape breaks nothing."""

import json
import re
import socket
import time
import urllib.error
import urllib.request

import openai
import pytest

KEYS = {"message", "type", "param", "code"}
CHAT = "/v1/chat/completions"


def error_of(response, status: int) -> dict:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == KEYS
    assert error["message"] and error["type"] and error["code"]
    assert response.headers["x-request-id"].startswith("req_")
    return error


def test_models(live) -> None:
    (one,) = live.client.models.list().data
    assert (one.id, one.object, one.owned_by, one.abilities) == ("tiny", "model", "opentar", ["draw", "read", "say"])
    assert live.client.models.retrieve("tiny") == one


@pytest.mark.parametrize("name", ["gpt-4", "../../x", "a/../../b", "tiny\0", "/etc/passwd", "%2e%2e", "tiny "])
def test_a_model_that_is_not_served(live, name) -> None:
    with pytest.raises(openai.NotFoundError) as told:
        live.client.chat.completions.create(model=name, messages=[{"role": "user", "content": "a"}])
    assert (told.value.code, told.value.param, told.value.type) == (
        "model_not_found", "model", "invalid_request_error"
    )  # fmt: skip
    with pytest.raises(openai.NotFoundError):
        live.client.images.generate(model=name, prompt="a dog")
    if "\0" not in name and "%" not in name and ".." not in name:
        with pytest.raises(openai.NotFoundError):
            live.client.models.retrieve(name)


def test_addresses_and_methods_that_are_not_there(live) -> None:
    for path in ("/", "/v1", "/v1/nothing", "/docs", "/v1/models/", "/health/", "/v1/chat/completions/x"):
        assert error_of(live.http.get(path), 404)["code"] in ("not_found", "model_not_found"), path
    for method, path in (("GET", CHAT), ("DELETE", "/v1/models"), ("POST", "/health"), ("PUT", "/metrics")):
        assert error_of(live.http.request(method, path), 405)["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nonsense", b"[1]", b'"text"', b"null", b"\xff\xfe", b'{"model": NaN}', b'{"a": 1e400}', b"{}" * 2],
)
def test_broken_json(live, content) -> None:
    for path in (CHAT, "/v1/images/generations"):
        error_of(live.http.post(path, content=content, headers={"content-type": "application/json"}), 400)


def test_a_body_of_another_kind(live) -> None:
    good = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1})
    response = live.http.post(CHAT, content=good, headers={"content-type": "text/plain"})
    assert response.status_code == 400
    assert "application/json" in response.json()["error"]["message"]


def test_json_that_is_nested_deeply(live) -> None:
    deep = 100_000
    for content in ("[" * deep, '{"a":' * deep, '{"messages":' + "[" * deep + "]" * deep + "}"):
        error_of(live.http.post(CHAT, content=content, headers={"content-type": "application/json"}), 400)
    assert live.http.get("/health").status_code == 200


@pytest.mark.parametrize("value", ["1e400", "-1e400", "NaN", "1" * 5000])
def test_numbers_that_are_none(live, value) -> None:
    body = f'{{"model": "tiny", "messages": [{{"role": "user", "content": "a"}}], "max_tokens": {value}}}'
    error_of(live.http.post(CHAT, content=body, headers={"content-type": "application/json"}), 400)


def test_a_refusal_costs_nothing(live) -> None:
    """No allocation and no loading: a hundred take less than one answer of a large model."""
    bodies = [{"max_tokens": 10**9}, {"n": 10**6}, {"messages": [{"role": "user", "content": "a"}] * 1001}]
    before = live.service.tickets.__reduce__()
    for body in bodies * 5:
        error_of(live.http.post(CHAT, json={"model": "tiny", "messages": []} | body), 400)
    assert live.service.tickets.__reduce__() == before, "nothing came near an engine"


def test_what_was_sent_is_not_repeated(live) -> None:
    secret = "c2VjcmV0" * 100
    bodies = [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": secret}}]}],
        },
        {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": secret},
        {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "stop": {"x": secret}},
    ]
    for body in bodies:
        assert "c2VjcmV0c2Vj" not in json.dumps(error_of(live.http.post(CHAT, json=body), 400))


def test_a_name_with_line_ends_stays_in_one_line(live) -> None:
    response = live.http.post(CHAT, json={"model": "a\r\nb\x1b[31m", "messages": [{"role": "user", "content": "a"}]})
    message = error_of(response, 404)["message"]
    assert "\n" not in message and "\x1b" not in message


def test_an_unknown_field_names_itself(live) -> None:
    response = live.http.post(
        CHAT, json={"model": "tiny", "messages": [{"role": "user", "content": "a"}], "maxtokens": 3}
    )
    error = error_of(response, 400)
    assert (error["code"], error["param"]) == ("unknown_parameter", "maxtokens")


def test_what_nobody_foresaw_is_an_error_without_its_text(live, monkeypatch, caplog) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret 12345")

    monkeypatch.setattr(live.service, "admit", broken)
    response = live.http.post(CHAT, json={"model": "tiny", "messages": [{"role": "user", "content": "a"}]})
    assert error_of(response, 500)["code"] == "internal_error"
    assert "12345" not in response.text
    assert "12345" in caplog.text
    assert response.headers["content-type"] == "application/json"


def test_logs_hold_nothing_of_a_request(serving, png, as_url, monkeypatch, caplog) -> None:
    """At the most talkative level, with a failure in the middle of each kind of work."""
    from opentar.serve import painter, pictures

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setenv("HF_TOKEN", "hf_ofthehub")
    secrets = {"key": "sesame-key", "prompt": "an embarrassing dog", "picture": as_url(png)}
    shown = {"type": "image_url", "image_url": {"url": secrets["picture"]}}
    bodies = [
        (CHAT, {"model": "tiny", "messages": [{"role": "user", "content": secrets["prompt"]}], "max_tokens": 2}),
        (CHAT, {"model": "tiny", "messages": [{"role": "user", "content": [shown]}], "max_tokens": 2}),
        ("/v1/images/generations", {"prompt": secrets["prompt"]}),
    ]
    with serving(keys=("sesame-key",)) as live, caplog.at_level("DEBUG"):
        headers = {"authorization": "Bearer sesame-key"}
        texts = [live.http.post(path, json=body, headers=headers).text for path, body in bodies]
        model = live.service.shelf.entry(None).loaded
        live.service.known._kept.clear()
        monkeypatch.setattr(painter, "paint", broken)
        monkeypatch.setattr(pictures, "encode_picture", broken)
        monkeypatch.setattr(model.engine.backend, "extend", broken)
        for path, body in bodies:
            response = live.http.post(path, json=body, headers=headers)
            assert response.status_code == 500, response.text
            texts.append(response.text)
        texts.append(live.http.get("/metrics", headers=headers).text)
        # In an address, where no key belongs; by a client that writes no log of its own.
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(f"{live.url}/v1/models?api_key=sesame-key")
        texts.append(told.value.read().decode())
    assert "broken" in caplog.text
    for secret in (secrets["key"], secrets["prompt"], secrets["picture"][40:90], "hf_ofthehub"):
        assert secret not in caplog.text
        assert not [text for text in texts if secret in text]


def test_two_models_beside_each_other(serving, tiny_model) -> None:
    with serving({"one": tiny_model, "two": tiny_model}) as live:
        assert [(one.id, one.loaded) for one in live.client.models.list()] == [("one", True), ("two", False)]
        found = [
            live.client.images.generate(model=name, prompt="a dog", extra_body={"seed": 1}) for name in ("two", "one")
        ]
        assert found[0].data == found[1].data
        assert [one.loaded for one in live.client.models.list()] == [True, True]


def test_the_client_tries_again_and_gets_its_answer(live, monkeypatch) -> None:
    from opentar.serve.refused import BusyError

    plain, asked = live.service.admit, []

    def busy_twice(*args: object) -> object:
        asked.append(time.monotonic())
        if len(asked) <= 2:
            raise BusyError("full; try again in 1 second", 1)
        return plain(*args)

    monkeypatch.setattr(live.service, "admit", busy_twice)
    with live.openai(max_retries=2) as client:
        done = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}], max_tokens=2)
    assert done.usage.completion_tokens == 2 and len(asked) == 3
    assert asked[1] - asked[0] > 0.9, "the client obeys Retry-After"


def test_the_document_describes_every_route_and_every_error(live) -> None:
    document = live.http.get("/openapi.json").json()
    described = {(path, method) for path, entry in document["paths"].items() for method in entry}
    assert described >= {
        (CHAT, "post"), ("/v1/images/generations", "post"), ("/v1/images/edits", "post"), ("/v1/models", "get"),
        ("/v1/models/{model}", "get"), ("/health", "get"), ("/ready", "get"), ("/metrics", "get"),
            ("/v1/responses", "post"), ("/v1/responses/{response}", "get"), ("/v1/responses/{response}", "delete"),
            ("/v1/decisions", "post"), ("/v1/moderations", "post"),
    }  # fmt: skip
    for path, method in described:
        entry = document["paths"][path][method]
        assert entry["summary"] and entry["responses"]
        for status, response in entry["responses"].items():
            if status >= "400":
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (path, status)
        assert "422" not in entry["responses"], "bodies that do not fit are 400"
    text = json.dumps(document)
    for name in set(re.findall(r"#/components/schemas/(\w+)", text)):
        assert name in document["components"]["schemas"]


def test_metrics_count_and_name_nothing_of_a_request(live) -> None:
    prompt = "a verysecretword"
    live.client.images.generate(model="tiny", prompt=f"a dog and {prompt}")
    live.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": prompt}], max_tokens=3)
    text = live.http.get("/metrics").text
    assert "verysecretword" not in text
    for line in (
        r'opentar_answers_total\{how="done",kind="say",model="tiny"\} [1-9]',
        r'opentar_tokens_total\{kind="drawn",model="tiny"\} [1-9]',
        r'opentar_http_responses_total\{route="/v1/chat/completions",status="200"\} [1-9]',
        r'opentar_first_seconds_count\{what="token"\} [1-9]',
        r"opentar_active 0",
    ):
        assert re.search(line, text), line


def test_what_is_no_http_breaks_nothing(live) -> None:
    for content in (b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02", b"GET /" + b"a" * 100_000):
        with socket.create_connection(("127.0.0.1", live.port), 10) as peer:
            peer.sendall(content)
            peer.settimeout(10)
            if content.startswith(b"\x16"):
                continue
            answer = peer.recv(1000)
            assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))
    assert live.http.get("/health").json() == {"status": "ok"}
