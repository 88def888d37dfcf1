"""The page over HTTP without a browser: languages, the door, what every response is given."""

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
