"""The page on a real server with nano, on loopback, and a browser where there is one."""

import asyncio
import contextlib
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="needs the extra ui")

from opentar.page.app import mount_page
from opentar.page.asked import Asker
from opentar.serve.app import create_app
from opentar.serve.limits import Limits
from opentar.serve.models import Shelf
from opentar.serve.run import Server, bind
from opentar.serve.service import Service

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    # A camera that shows a moving test picture.
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip


class Shown:
    """A server that shows the page."""

    def __init__(self, service: Service, port: int) -> None:
        self.service, self.port = service, port
        self.url = f"http://127.0.0.1:{port}"

    def idle(self, seconds: float = 30.0) -> bool:
        """Whether every place is given back, soon."""
        until = time.monotonic() + seconds
        while self.service.active and time.monotonic() < until:
            time.sleep(0.05)
        return not self.service.active


@contextlib.contextmanager
def _showing(keys: tuple[str, ...] = ()) -> Iterator[Shown]:
    service = Service(Shelf({"nano": "nano"}), Limits())
    app = create_app(service, keys=keys, hosts=("127.0.0.1",))
    mount_page(app, service, keys)
    bound, started = bind("127.0.0.1", 0), threading.Event()
    server = Server(app, grace=5, on_start=started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield Shown(service, bound.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def shown() -> Iterator[Shown]:
    """A server with the page, for all tests."""
    with _showing() as found:
        yield found


@pytest.fixture
def locked() -> Iterator[Shown]:
    """One that wants a key."""
    with _showing(("sesame",)) as found:
        yield found


@pytest.fixture
def with_asker() -> Callable[[Callable[[Asker], Awaitable[Any]]], Any]:
    """Run a coroutine function on a service that has no HTTP around it."""

    def run(work: Callable[[Asker], Awaitable[Any]]) -> Any:
        async def inside() -> Any:
            service = Service(Shelf({"nano": "nano"}), Limits())
            service.start()
            try:
                return await work(Asker(service))
            finally:
                await service.close()

        return asyncio.run(inside())

    return run


@pytest.fixture
def apples(root: Path) -> Path:
    """A picture of red apples."""
    return root / "docs" / "nano.png"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), timeout=120_000)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Any, shown: Shown) -> Iterator[Callable[..., Any]]:
    """Open the page: `open_page(width=390, lang="zh")`. Afterwards nothing may have been asked of another machine,
    and the browser may have had nothing to complain of."""
    contexts: list[Any] = []
    foreign: list[str] = []
    complaints: list[str] = []

    def asked(request: Any) -> None:
        if not request.url.startswith((f"{shown.url}/", "data:", "blob:")):
            foreign.append(request.url)

    def said(message: Any) -> None:
        if message.type == "error":
            complaints.append(f"{message.text} {message.location}")

    def start(width: int = 1100, lang: str = "en", address: str | None = None, **options: Any) -> Any:
        size = {"width": width, "height": 844 if width < 600 else 900}
        context = browser.new_context(viewport=size, permissions=["camera"], **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(45_000)
        page.on("request", asked)
        page.on("console", said)
        page.goto(f"{shown.url}/ui?lang={lang}" if address is None else f"{shown.url}{address}")
        page.wait_for_selector("#prompt textarea")
        return page

    yield start
    for context in contexts:
        context.close()
    assert foreign == []
    assert complaints == []
    assert shown.idle()
