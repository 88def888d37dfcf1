"""Real servers on loopback, with tiny real models, and OpenAI's own client."""

import base64
import contextlib
import importlib.util
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from opentar.serve.app import create_app
from opentar.serve.limits import Limits
from opentar.serve.models import Shelf
from opentar.serve.policy import DEFAULT, Policy
from opentar.serve.rate import Rate
from opentar.serve.run import Server, bind
from opentar.serve.service import Service


class Live:
    """A server that runs."""

    def __init__(self, service: Service, app: Any, port: int) -> None:
        self.service, self.app, self.port = service, app, port
        self.url = f"http://127.0.0.1:{port}"
        self.client = self.openai()
        self.http = httpx2.Client(base_url=self.url, timeout=60)

    def openai(self, key: str = "none", **options: Any) -> openai.OpenAI:
        options = {"max_retries": 0, "timeout": 60} | options
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **options)

    def idle(self, seconds: float = 20.0) -> bool:
        """Whether every place and every slot of the engines is given back, soon."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            engines = [entry.loaded.engine for entry in self.service.shelf.entries.values() if entry.loaded]
            if not self.service.active and all(engine.idle for engine in engines):
                kept = sum(len(engine._beginnings._kept) for engine in engines)
                used = sum(engine.backend._numbers.used for engine in engines)
                users = sum(entry.users for entry in self.service.shelf.entries.values())
                if used == kept and not users:
                    return True
            time.sleep(0.01)
        return False


@contextlib.contextmanager
def _serving(
    models: dict[str, Any],
    keys: tuple[str, ...] = (),
    policy: Policy = DEFAULT,
    rate: Rate | None = None,
    **limits: Any,
) -> Iterator[Live]:
    bounds = Limits(**limits)
    service = Service(Shelf(models, memory=bounds.memory, batch=bounds.batch), bounds)
    app = create_app(service, keys=keys, hosts=("127.0.0.1", "localhost"), policy=policy, rate=rate)
    bound = bind("127.0.0.1", 0)
    started = threading.Event()
    server = Server(app, grace=5, on_start=started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    assert started.wait(30)
    live = Live(service, app, bound.getsockname()[1])
    until = time.monotonic() + 60
    while service.why_not_ready() is not None and time.monotonic() < until:
        time.sleep(0.01)
    try:
        yield live
    finally:
        live.http.close()
        live.client.close()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model; do not change it."""
    # By its path: `tests` is no package, and another one of that name may be installed.
    spec = importlib.util.spec_from_file_location("opentar_tests_tiny", Path(__file__).parents[1] / "tiny.py")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return tiny.write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def serving(tiny_model: Path) -> Callable[..., contextlib.AbstractContextManager[Live]]:
    """Start a server: `with serving(batch=2) as live`; the tiny model unless others are named."""

    def start(models: dict[str, Any] | None = None, **options: Any) -> contextlib.AbstractContextManager[Live]:
        return _serving({"tiny": tiny_model} if models is None else models, **options)

    return start


@pytest.fixture(scope="module")
def live(serving: Callable[..., contextlib.AbstractContextManager[Live]]) -> Iterator[Live]:
    """A server of the tiny model, for a file of tests."""
    with serving() as found:
        yield found
        assert found.idle()


@pytest.fixture(scope="session")
def png() -> bytes:
    """An ordinary picture: a gradient of 40 x 30 pixels."""
    image = Image.new("RGB", (40, 30))
    image.putdata([(6 * x, 8 * y, 90) for y in range(30) for x in range(40)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def as_url() -> Callable[[bytes], str]:
    """The data URL of a file."""
    return lambda content: f"data:image/png;base64,{base64.b64encode(content).decode()}"


@pytest.fixture
def slowly(live: Live, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Make each step of the engine take longer."""

    def slow(seconds: float) -> None:
        engine = live.service.shelf.entry(None).loaded.engine
        plain = engine.step

        def step() -> Any:
            time.sleep(seconds)
            return plain()

        monkeypatch.setattr(engine, "step", step)

    return slow
