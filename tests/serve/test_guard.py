"""Who is let in, and how much may be sent."""

import json
import socket
import time

import openai
import pytest

from opentar.core.errors import ConfigError
from opentar.serve.run import allowed_hosts

KEY = "a-secret-key"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def locked(serving):
    with serving(keys=(KEY, "another")) as found:
        yield found


def routes(live) -> list[tuple[str, str]]:
    """Every route of the app, so that a new one is tried too."""
    found = []

    def walk(those) -> None:
        for route in those:
            if hasattr(route, "methods") and hasattr(route, "path"):
                found.extend((method, route.path.replace("{model:path}", "tiny")) for method in route.methods)
            else:
                walk(getattr(route, "routes", None) or route.original_router.routes)

    walk(live.app.routes)
    return found


WRONG = [
    {},
    {"authorization": "Bearer wrong"},
    {"authorization": f"bearer {KEY}"},
    {"authorization": KEY},
    {"authorization": f"Basic {KEY}"},
    {"authorization": f"Bearer  {KEY}"},
    {"authorization": f"Bearer {KEY}x"},
    {"authorization": "Bearer"},
    {"authorization": "Bearer \xe9"},
    {"x-api-key": KEY},
]


def test_every_route_wants_the_key_but_two(locked) -> None:
    every = routes(locked)
    assert len(every) >= 8 and ("POST", CHAT) in every and ("GET", "/openapi.json") in every
    for method, path in [*every, ("GET", "/nothing"), ("POST", "/v1/new")]:
        for headers in WRONG:
            raw = {name: value.encode("latin-1") for name, value in headers.items()}
            response = locked.http.request(method, path, headers=raw)
            if path in ("/health", "/ready"):
                assert response.status_code == 200, (path, headers)
            else:
                assert response.status_code == 401, (method, path, headers)
                if method != "HEAD":
                    assert response.json()["error"]["code"] == "invalid_api_key"
                    assert response.headers["www-authenticate"] == "Bearer"
                    assert KEY not in response.text


def test_the_right_key_is_let_in(locked) -> None:
    for key in (KEY, "another"):
        with locked.openai(key) as client:
            assert [one.id for one in client.models.list()] == ["tiny"]
    with pytest.raises(openai.AuthenticationError):
        locked.client.models.list()


def test_the_path_that_is_routed_decides(locked) -> None:
    """Whatever a path looks like, what is no open path wants the key."""
    targets = [
        "//v1/models", "/v1/../health", "/health/", "/health/../v1/models", "/HEALTH", "/v1/models?/health",
        "/v1/models#/health", "/%76%31/models", "/v1/models%2f..%2f..%2fhealth", "/health%00", "/;/v1/models",
        "http://127.0.0.1/v1/models",
    ]  # fmt: skip
    for target in targets:
        for method in ("GET", "HEAD", "OPTIONS"):
            head = f"{method} {target} HTTP/1.1\r\nHost: localhost/health?\r\nConnection: close\r\n\r\n"
            plain = head.replace("localhost/health?", f"127.0.0.1:{locked.port}")
            for content in (head, plain):
                with socket.create_connection(("127.0.0.1", locked.port), 10) as peer:
                    peer.sendall(content.encode())
                    answer = peer.makefile("rb").read()
                status = int(answer.split()[1])
                assert status in (400, 401, 403), (content, answer[:200])


def test_other_pages_and_other_names_are_refused(live) -> None:
    for headers, code in (
        ({"host": "evil.example"}, "wrong_host"),
        ({"host": "127.0.0.1.evil.example"}, "wrong_host"),
        ({"host": ""}, "wrong_host"),
        ({"host": "[::1"}, "wrong_host"),
        ({"origin": "http://evil.example"}, "wrong_origin"),
        ({"origin": "null"}, "wrong_origin"),
        ({"origin": ""}, "wrong_origin"),
        ({"origin": "http://["}, "wrong_origin"),
        ({"origin": f"http://{live.port}@127.0.0.1"}, "wrong_origin"),
        ({"origin": "http://127.0.0.1:1"}, "wrong_origin"),
    ):
        response = live.http.get("/v1/models", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (403, code), headers
        assert "access-control-allow-origin" not in response.headers
    for headers in ({"host": f"localhost:{live.port}"}, {"origin": live.url}):
        assert live.http.get("/v1/models", headers=headers).status_code == 200


def test_an_address_that_others_reach_needs_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com", ""):
        with pytest.raises(ConfigError, match=r"OPENTAR_API_KEY.*--insecure"):
            allowed_hosts(host, [], False)
        assert allowed_hosts(host, ["key"], False) is None
        assert allowed_hosts(host, [], True) is None
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        assert {"localhost", "127.0.0.1", "::1", host} == set(allowed_hosts(host, [], False) or ())


def test_a_body_that_is_too_large_is_refused_before_it_is_read(serving) -> None:
    with serving(body_bytes=10_000) as live:
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "a" * 20_000}]})
        response = live.http.post(CHAT, content=body, headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")

        def pieces():
            for _ in range(20):
                yield b" " * 1000

        response = live.http.post(CHAT, content=pieces(), headers={"content-type": "application/json"})
        assert response.status_code == 413, "also where no length was told"
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {10**15}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", live.port), 10) as peer:
            peer.sendall(head.encode())
            assert b" 413 " in peer.recv(100)
        assert live.http.get("/health").status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(serving) -> None:
    with serving(body_seconds=0.5) as live:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", live.port), 20) as peer:
            began = time.monotonic()
            peer.sendall(head.encode() + b'{"model":')
            answer = peer.makefile("rb").read()
        assert b" 408 " in answer and b"request_timeout" in answer
        assert time.monotonic() - began < 15


def test_a_head_that_does_not_come_is_not_waited_for(live, monkeypatch) -> None:
    monkeypatch.setattr("opentar.serve.run._HEADER_SECONDS", 0.3)
    for content in (b"", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "):
        with socket.create_connection(("127.0.0.1", live.port), 20) as peer:
            peer.sendall(content)
            peer.settimeout(20)
            assert peer.recv(100) == b"", "closed"
    # One that has sent a request may think as long as it likes about the answer.
    with socket.create_connection(("127.0.0.1", live.port), 20) as peer:
        peer.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        time.sleep(0.6)
        assert b"ok" in peer.makefile("rb").read()


def test_a_head_that_is_too_large_is_refused(live) -> None:
    with socket.create_connection(("127.0.0.1", live.port), 10) as peer:
        peer.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"a" * 100_000)
        assert peer.recv(100).startswith(b"HTTP/1.1 400 ")
