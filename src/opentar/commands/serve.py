"""`opentar serve`: models over HTTP, in the shapes of OpenAI's API; `opentar ui`: the same with the page."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from opentar.commands import options
from opentar.commands.output import Output
from opentar.core import environment
from opentar.core.errors import ConfigError, shown

if TYPE_CHECKING:
    from fastapi import FastAPI

    from opentar.serve.service import Service

_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) ?([kmg]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

Models = Annotated[
    list[str] | None,
    Parameter(
        name=["--model", "-m"],
        consume_multiple=True,
        help="Models to serve: names, folders, or NAME=FOLDER; the first is the default and loaded at once.",
    ),
]
Host = Annotated[str, Parameter(help="Address to listen on.")]
Key = Annotated[
    list[str] | None,
    Parameter(help="Key that requests must carry; may be repeated. Better: the variable OPENTAR_API_KEY."),
]
PerMinute = Annotated[int | None, Parameter(help="Requests that each key has in a minute. Default: any number.")]
Insecure = Annotated[bool, Parameter(help="Listen on an address that others reach without any key.")]
Memory = Annotated[
    str | None, Parameter(help="Room for models, such as 8GB; those not used for longest make room. Default: all.")
]


def serve(
    *,
    model: Models = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 takes a free one.")] = 8000,
    api_key: Key = None,
    rate: PerMinute = None,
    insecure: Insecure = False,
    memory: Memory = None,
    batch: Annotated[int, Parameter(help="Answers of one model that are made side by side.")] = 16,
    queue: Annotated[int, Parameter(help="Answers that may wait; further ones are refused.")] = 64,
    timeout: Annotated[float, Parameter(help="Longest time of one request in seconds.")] = 600.0,
    grace: Annotated[float, Parameter(help="Seconds that running requests have to end after SIGTERM.")] = 30.0,
    policy: Annotated[
        Path | None, Parameter(help="What /v1/moderations asks: a YAML, JSON or TOML file. Default: a small own one.")
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.LanguageEngine = None,
    ui: Annotated[bool, Parameter(name="--ui", help="Show the page of `opentar ui` at /ui, too.")] = False,
) -> None:
    """Serve models over HTTP: chat, pictures, models, in the shapes of OpenAI's API. Ends on Ctrl-C or SIGTERM."""
    output = Output()
    keys = _keys(api_key)
    _check(port, grace)
    names = _named(model or ["nano"])
    with output.working():
        _check_packages()
        from opentar.serve.app import create_app
        from opentar.serve.limits import Limits
        from opentar.serve.models import Shelf
        from opentar.serve.policy import DEFAULT, read_policy
        from opentar.serve.rate import Rate
        from opentar.serve.run import Server, allowed_hosts, bind
        from opentar.serve.service import Service

        hosts = allowed_hosts(host, keys, insecure)
        asks = DEFAULT if policy is None else read_policy(policy)
        each = None if rate is None else Rate(rate)
        limits = Limits(batch=batch, queue=queue, seconds=timeout, memory=_bytes(memory))
        shelf = Shelf(names, memory=limits.memory, batch=batch, device=device, dtype=dtype, engine=engine)
        shelf.entry(asks.model)
        bound = bind(host, port)
        # What is wrong with the model is told at once, and not to the first client.
        shelf.take(shelf.entry(None))
        shelf.give_back(shelf.entry(None))
        url, service = _url(host, bound), Service(shelf, limits)
        app = create_app(service, keys=keys, hosts=hosts, policy=asks, rate=each)
        told = f"serving {', '.join(names)} on {url}/v1"
        if ui:
            _show_page(app, service, keys)
            told += f", the page on {url}/ui"
        Server(app, grace=grace, on_start=lambda: output.note(told)).run(sockets=[bound])


def ui(
    *,
    model: Models = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 takes a free one.")] = 7860,
    api_key: Key = None,
    insecure: Insecure = False,
    memory: Memory = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.LanguageEngine = None,
) -> None:
    """Open a page to draw, ask and look at the codes of pictures, in a browser. Ends on Ctrl-C.

    It is the server of `opentar serve` with the page on it: the address it prints is for a browser, and /v1 for
    programs. It listens on this machine alone; for a phone in the same network give --host 0.0.0.0 and a key.
    """
    serve(
        model=model,
        host=host,
        port=port,
        api_key=api_key,
        insecure=insecure,
        memory=memory,
        device=device,
        dtype=dtype,
        engine=engine,
        ui=True,
    )


def _show_page(app: FastAPI, service: Service, keys: list[str]) -> None:
    try:
        from opentar.page.app import mount_page
    except ModuleNotFoundError as error:
        raise ConfigError(f"the page needs {error.name}; install it with: pip install 'opentar[ui]'") from error
    mount_page(app, service, keys)


def _check_packages() -> None:
    """Raise ConfigError where the extra is not installed."""
    try:
        import opentar.serve.app  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"the server needs {error.name}; install it with: pip install 'opentar[serve]'") from error


def _url(host: str, bound: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"


def _check(port: int, grace: float) -> None:
    if not 0 <= port <= 65535:
        raise ConfigError(f"port is {port}; it must be from 0 to 65535")
    if not grace >= 0:
        raise ConfigError(f"grace is {grace}; give 0 seconds or more")


def _keys(given: list[str] | None) -> list[str]:
    """No key has a space in it: the header that carries one could not. Raises ConfigError for an empty one."""
    told = environment.api_keys()
    keys = given or ([] if told is None else told.split() or [""])
    for key in keys:
        if not key.strip():
            raise ConfigError("the API key is empty; give one, or leave it out")
    return keys


def _named(models: list[str]) -> dict[str, str]:
    """Name -> model; a folder is called as its last part, so that no client is told where it lies.

    Raises ConfigError for a name that is given twice.
    """
    from opentar.checkpoints.find import PUBLISHED

    found: dict[str, str] = {}
    for text in models:
        name, equals, place = text.partition("=")
        if not (equals and name and place):
            name, place = text if text in PUBLISHED else Path(text).name or text, text
        if name in found:
            raise ConfigError(f"the model {shown(name)} is given twice; name it once, or give it a name: NAME=FOLDER")
        found[name] = place
    return found


def _bytes(size: str | None) -> int | None:
    """8GB -> 8 * 10^9. Raises ConfigError for what is no size."""
    if size is None:
        return None
    found = _SIZE.fullmatch(size.strip())
    if found is None:
        raise ConfigError(f"memory is {shown(size)}; give a size such as 8GB or 500MB")
    return int(float(found[1]) * _UNITS[found[2].lower()])
