"""The process: binds, serves, drains when it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from types import FrameType

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from opentar.core.errors import ConfigError, shown
from opentar.serve.guard import LOOPBACK_NAMES
from opentar.serve.service import Service

_HEADER_SECONDS = 20.0
"""Longest time that the head of a request may take to come."""
_HEADER_BYTES = 64 << 10


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(host: str, keys: Collection[str], insecure: bool) -> tuple[str, ...] | None:
    """Names that the Host header may have where the server is bound to `host`; None allows all.

    Raises ConfigError for an address that others reach, without a key.
    """
    if is_loopback(host):
        return (*LOOPBACK_NAMES, host)
    if not keys and not insecure:
        raise ConfigError(
            f"the host {shown(host)} can be reached by other machines and there is no key; set --api-key or "
            "OPENTAR_API_KEY, or bind to 127.0.0.1 (--insecure lets everybody in)"
        )
    return None


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError where the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        # With the protocol by its name: else asyncio leaves Nagle's algorithm on, and answers wait 40 ms for it.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is no address"
        raise ConfigError(f"cannot listen on {shown(host)} port {port} ({reason}); choose another port") from error
    bound.set_inheritable(False)
    return bound


class _Patient(H11Protocol):
    """Closes connections whose next head takes too long to come, so that nobody holds them open for nothing."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Wait while there is no request, or only a part of its head."""
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(_HEADER_SECONDS, self._close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _close(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Runs an app of `create_app`: `run(sockets=[bind(...)])` blocks until a signal, or `should_exit` is set.

    It ends with code 0 after draining; a second signal ends it at once.

    Args:
        app: the app.
        grace: seconds that running requests have to end.
        on_start: called when it listens.
    """

    def __init__(self, app: FastAPI, *, grace: float = 30.0, on_start: Callable[[], object] | None = None) -> None:
        super().__init__(_config(app, grace))
        self._service: Service = app.state.service
        self._grace, self._on_start = grace, on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if self._on_start is not None:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what runs end; after the grace it is told that it ends."""
        self._service.stop_admitting()
        late = asyncio.ensure_future(self._end_late())
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()

    async def _end_late(self) -> None:
        await asyncio.sleep(self._grace)
        self._service.end_all()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals, and do not raise them again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        known = [signal.SIGINT, signal.SIGTERM]
        before = {number: signal.signal(number, self.handle_exit) for number in known}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take nothing on any more, and end when all has ended."""
        if self.should_exit:
            os._exit(128 + sig)
        self._service.stop_admitting()
        self.should_exit = True


def _config(app: FastAPI, grace: float) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=_Patient,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        # What is told that it ends needs a moment to tell its client.
        timeout_graceful_shutdown=math.ceil(grace) + 2,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return config
