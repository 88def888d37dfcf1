"""The page over HTTP without a browser: languages, the door, what every response is given."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx2

ASK = {"accept": "text/html"}


def test_the_address_leads_to_the_readers_language(shown) -> None:
    with httpx2.Client(base_url=shown.url, timeout=60) as client:
        for path in ("/", "/ui", "/ui/"):
            assert client.get(path, headers={"accept-language": "zh-CN"}).headers["location"] == "/ui/zh/"
        assert client.get("/ui?lang=en", headers={"accept-language": "zh"}).headers["location"] == "/ui/en/"
        assert client.get("/ui/zh").headers["location"] == "/ui/zh/"
        for language, tag in (("en", "en"), ("zh", "zh-CN")):
            page = client.get(f"/ui/{language}/", headers={"accept-encoding": "br, gzip"})
            assert page.status_code == 200 and f'lang="{tag}"' in page.text
            assert "default-src 'self'" in page.headers["content-security-policy"]
            assert "fonts.googleapis" not in page.text
        assert client.get("/v1/models").json()["data"][0]["id"] == "nano"
        assert not [path for path in client.get("/openapi.json").json()["paths"] if path.startswith("/ui")]


def test_nobody_gets_a_file_that_is_not_of_the_page(shown) -> None:
    with httpx2.Client(base_url=f"{shown.url}/ui/en", timeout=60) as client:
        for path in ("/etc/passwd", "/proc/self/environ", "..%2f..%2fetc%2fpasswd"):
            assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_other_pages_and_other_names_are_refused(shown) -> None:
    with httpx2.Client(base_url=shown.url, timeout=60) as client:
        assert client.get("/ui/en/", headers={"origin": "http://evil.example"}).status_code == 403
        assert client.get("/ui/en/", headers={"host": "evil.example"}).status_code == 403


def test_with_a_key_the_page_asks_for_it(locked) -> None:
    with httpx2.Client(base_url=locked.url, timeout=60) as client:
        asked = client.get("/ui?lang=zh", headers=ASK)
        assert asked.status_code == 401 and "密钥" in asked.text and 'type="password"' in asked.text
        assert client.get("/ui/en/config").status_code == 401
        wrong = client.post("/ui", headers=ASK, data={"key": "wrong"})
        assert wrong.status_code == 401 and 'role="alert"' in wrong.text and "set-cookie" not in wrong.headers
        assert client.post("/ui", headers=ASK, data={"key": "x" * 9000}).status_code == 413
        elsewhere = client.post("/ui", headers=ASK | {"sec-fetch-site": "cross-site"}, data={"key": "sesame"})
        assert elsewhere.status_code == 401 and "set-cookie" not in elsewhere.headers
        right = client.post("/ui", headers=ASK, data={"key": "sesame"})
        cookie = right.headers["set-cookie"]
        assert right.status_code == 303 and "sesame" not in cookie
        assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
        assert client.get("/ui/en/config").status_code == 200, "the cookie is kept by the client"
        # The cookie opens the page, and nothing else.
        assert client.get("/v1/models").status_code == 401
    with httpx2.Client(base_url=locked.url, timeout=60, headers={"authorization": "Bearer sesame"}) as client:
        assert client.get("/ui/en/config").status_code == 200


def _join(client: httpx2.Client, elem: str, picture: dict, session: str) -> str:
    """Send to the event behind a button as a program could; what the page's stream tells of it."""
    config = client.get("/config").json()
    button = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == elem)
    event = next(one for one in config["dependencies"] if [button, "click"] in [list(to) for to in one["targets"]])
    kinds = {one["id"]: one["props"].get("elem_id") for one in config["components"]}
    values = {"ask-picture": picture, "question": "What is in the picture?", "model": "nano"}
    body = {
        "data": [values.get(kinds[one]) for one in event["inputs"]],
        "fn_index": event["id"],
        "session_hash": session,
        "trigger_id": button,
    }
    joined = client.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return f"refused {joined.status_code}"
    told = ""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            told += line
            if "process_completed" in line or "close_stream" in line:
                break
    return told


def test_the_page_reads_no_file_and_no_address_that_a_program_names(shown, apples: Path) -> None:
    met: list[bytes] = []

    class Canary(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            met.append(self.path.encode())
            self.send_error(404)

    canary = HTTPServer(("127.0.0.1", 0), Canary)
    threading.Thread(target=canary.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{canary.server_port}/x.png"
    try:
        with httpx2.Client(base_url=f"{shown.url}/ui/en", timeout=60) as client:
            for number, picture in enumerate(
                (
                    {"path": address, "meta": {"_type": "gradio.FileData"}},
                    {"path": "x.png", "url": address, "meta": {"_type": "gradio.FileData"}},
                    {"url": address, "meta": {"_type": "gradio.FileData"}},
                    {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
                    {"path": "/etc/passwd"},
                    {"url": "file:///etc/passwd", "meta": {"_type": "gradio.FileData"}},
                )
            ):
                told = _join(client, "ask", picture, f"session{number}")
                assert '"success":false' in told and "process_generating" not in told, told
                assert "root:" not in told and "etc/passwd" not in told, told
            # The same way with a picture that was uploaded gives an answer.
            sent = client.post("/gradio_api/upload", files={"files": ("a.png", apples.read_bytes(), "image/png")})
            told = _join(client, "ask", {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}, "last")
            assert '"success":true' in told and '"success":false' not in told and "process_generating" in told
    finally:
        canary.shutdown()
        canary.server_close()
    assert met == []
    assert shown.idle()
