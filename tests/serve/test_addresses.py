"""Addresses as pictures, on every route that takes pictures: none is looked up, connected to or waited for."""

import ast
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import opentar

SOURCE = Path(opentar.__file__).parent
CLIENTS = {"urllib.request", "http.client", "httpx", "httpx2", "requests", "aiohttp", "urllib3", "ftplib", "openai"}


def bodies(url: str) -> list[tuple[str, dict, str]]:
    """Path and body of each way to show a picture, and the field that names it."""
    part = {"type": "image_url", "image_url": {"url": url}}
    seen = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    drawn = {"role": "assistant", "content": "", "images": [part]}
    asked = {"role": "user", "content": "and now?"}
    own = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": "Is this it?"}]
    yes_no = [{"type": "predicate", "instructions": "Is there a dog?"}]
    return [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]}, "messages[0].content[0]"),
        ("/v1/chat/completions", {"messages": [drawn, asked]}, "messages[0].images[0]"),
        ("/v1/responses", {"input": seen}, "input[0].content[0]"),
        ("/v1/decisions", {"input": seen, "questions": yes_no}, "input[0].content[0]"),
        ("/v1/decisions", {"input": "a", "questions": [yes_no[0] | {"instructions": own}]}, "questions[0]"),
        ("/v1/moderations", {"input": [part]}, "input[0]"),
    ]


@pytest.fixture
def strangers(monkeypatch) -> Iterator[tuple[dict[str, int], list[object]]]:
    """Servers that must not be met, by what they would do, and everything that was looked up or met.

    One redirects to the address of a cloud's metadata, one never stops sending, one sends nothing.
    """
    met: list[object] = []
    answers = {
        "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/\r\nContent-Length: 0\r\n\r\n",
        "endless": b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n" + b"\x89PNG" * 1000,
        "slow": b"",
    }
    plain = socket.getaddrinfo

    def looked_up(host, *more, **options):
        with contextlib.suppress(ValueError, TypeError):
            ipaddress.ip_address(host)
            return plain(host, *more, **options)
        if host not in (None, "", "localhost"):
            met.append(host)
            # Two answers, as of a name that is bound anew between the check and the call.
            return [*plain("127.0.0.1", *more, **options), *plain("127.0.0.2", *more, **options)]
        return plain(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    monkeypatch.setattr(socket, "gethostbyname", lambda name: met.append(name) or "127.0.0.1")
    ports, stopping = {}, threading.Event()
    with contextlib.ExitStack() as stack:
        threads = []
        for name, content in answers.items():
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(0.1)
            ports[name] = listener.getsockname()[1]

            def serve(listener=listener, name=name, content=content) -> None:
                while not stopping.is_set():
                    with contextlib.suppress(TimeoutError):
                        peer, _ = listener.accept()
                        met.append(name)
                        peer.sendall(content)

            threads.append(threading.Thread(target=serve))
            threads[-1].start()
        yield ports, met
        stopping.set()
        for thread in threads:
            thread.join()


def test_nobody_is_met_and_no_name_is_looked_up(live, strangers) -> None:
    ports, met = strangers
    addresses = [
        f"{scheme}://{host}:{port}/a.png"
        for port in ports.values()
        for scheme, host in (("http", "127.0.0.1"), ("https", "localhost"), ("http", "pictures.example"))
    ]
    for url in (*addresses, "http://rebound.example/", "https://user:word@pictures.example/a.png?x=1"):
        for path, body, field in bodies(url):
            response = live.http.post(path, json=body | {"model": "tiny"})
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (400, "invalid_image_url"), (path, error)
            assert error["param"].startswith(field), (path, error)
            assert "pictures.example" not in response.text and "word" not in error["message"]
    assert met == []
    assert live.idle()


def test_the_watch_sees_who_reaches_out(strangers) -> None:
    ports, met = strangers
    with socket.create_connection(("pictures.example", ports["redirect"]), 5) as peer:
        assert peer.recv(100).startswith(b"HTTP/1.1 302")
    assert met == ["pictures.example", "redirect"]


def test_the_server_has_nothing_that_could_fetch() -> None:
    """No module of the server or of reading pictures imports a client of HTTP."""
    files = [*(SOURCE / "serve").rglob("*.py"), *(SOURCE / "core").glob("picture*.py")]
    assert len(files) > 30
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert not CLIENTS & set(names), f"{path.name} imports {names}"
