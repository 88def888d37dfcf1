"""A model that a running server has: asked and drawn with over HTTP, in the shapes of OpenAI's API."""

import base64
import binascii
import io
import json
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentar.core.errors import ConfigError, ModelError, OpenTarError, nearest, shown

if TYPE_CHECKING:
    import httpx2
    from PIL.Image import Image

    from opentar.core.progress import Progress

_CONNECT_SECONDS = 10.0
_MOST_PNG_BYTES = 16 << 20
"""A server takes 20 MiB; what is larger as PNG is sent as JPEG of quality 95."""
_HERE = ("localhost", "127.0.0.1", "::1")


class ServerError(OpenTarError):
    """The server cannot be reached, is none of ours, or refused what was asked."""


class Remote:
    """The part of `Tar` that a talk needs, done by a server.

    Args:
        address: of the server, as http://127.0.0.1:8000; with or without /v1.
        key: what its requests must carry; None sends none.
        model: one of its models; None is its first.

    Raises:
        ConfigError: the address is none, the key cannot be sent or is not the server's.
        ServerError: nothing answers, or no such server.
        ModelError: the server has no such model.
    """

    def __init__(self, address: str, key: str | None = None, model: str | None = None) -> None:
        self._url = _checked(address)
        self._key = key
        self._http = _client(self._url, key)
        self._drawn: tuple[Image, bytes] | None = None
        self._sent: tuple[Sequence[Image], list[str]] | None = None
        self.name = self._chosen(model)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def ask(self, pictures: "Sequence[Image]", question: str) -> str:
        """The answer to a question about pictures that are shown together. Raises ServerError."""
        if self._sent is None or self._sent[0] is not pictures:
            self._sent = (pictures, [self._data_url(picture) for picture in pictures])
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in self._sent[1]]
        content.append({"type": "text", "text": question})
        body = {"model": self.name, "messages": [{"role": "user", "content": content}]}
        told = self._told("POST", "/v1/chat/completions", body)
        try:
            said: str = told["choices"][0]["message"]["content"]
            return said.strip()
        except (LookupError, TypeError, AttributeError) as error:
            raise self._stranger("its answer has no text") from error

    def generate(self, prompt: str, *, seed: int = 0, callback_on_step_end: "Progress | None" = None) -> "list[Image]":
        """One RGB picture of a prompt; its `info` says how to repeat it. Raises ServerError."""
        if callback_on_step_end is not None:
            callback_on_step_end("picture", 0, 1)
        body = {"model": self.name, "prompt": prompt, "seed": seed, "output_format": "png"}
        told = self._told("POST", "/v1/images/generations", body)
        try:
            content = base64.b64decode(told["data"][0]["b64_json"], validate=True)
            heard = told["data"][0].get("revised_prompt")
        except (LookupError, TypeError, AttributeError, binascii.Error) as error:
            raise self._stranger("its answer has no picture") from error
        picture = _opened(content)
        if heard and str(heard).casefold() != prompt.casefold():
            warnings.warn(f"the server drew {shown(heard)}", stacklevel=2)
        # Asked about by the same bytes, it is known to the server and not encoded again.
        self._drawn = (picture, content)
        if callback_on_step_end is not None:
            callback_on_step_end("picture", 1, 1)
        return [picture]

    def _chosen(self, model: str | None) -> str:
        told = self._told("GET", "/v1/models")
        try:
            names = [str(one["id"]) for one in told["data"]]
        except (LookupError, TypeError) as error:
            raise self._stranger("it lists no models") from error
        if not names:
            raise self._stranger("it has no models")
        if model is None or model in names:
            return model or names[0]
        has = f"the server has {', '.join(map(shown, names))}"
        raise ModelError(f"{self._url} has no model {shown(model)}; {has}.{nearest(model, names)}")

    def _data_url(self, picture: "Image") -> str:
        from opentar.core.picture_formats import encode_picture

        if self._drawn is not None and self._drawn[0] is picture:
            return _as_url("png", self._drawn[1])
        content = encode_picture(picture, "PNG")
        if len(content) <= _MOST_PNG_BYTES:
            return _as_url("png", content)
        return _as_url("jpeg", encode_picture(picture, "JPEG"))

    def _told(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object of a response. Raises ConfigError for a wrong key, else ServerError."""
        import httpx2

        try:
            response = self._http.request(method, path, json=body)
        except httpx2.RequestError as error:
            raise ServerError(
                f"no server answers at {self._url} ({_reason(error)}); check the address, or start one: opentar serve"
            ) from error
        if response.status_code == 401:
            state = "was not given one" if self._key is None else "does not take the one it was given"
            raise ConfigError(f"the server at {self._url} wants a key and {state}; set OPENTAR_API_KEY, or --api-key")
        try:
            told = response.json()
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise self._stranger(f"status {response.status_code}, and no JSON") from error
        if not isinstance(told, dict):
            raise self._stranger(f"status {response.status_code}, and no JSON object")
        if response.is_success:
            return told
        error_of = told.get("error")
        if not isinstance(error_of, dict) or not isinstance(error_of.get("message"), str):
            raise self._stranger(f"status {response.status_code}")
        raise ServerError(f"the server refused it: {error_of['message']}")

    def _stranger(self, why: str) -> ServerError:
        return ServerError(f"what answers at {self._url} is no server of OpenTar ({why}); check the address")


def _checked(address: str) -> str:
    """The address without /v1 and a slash at its end."""
    wrong = f"server is {shown(address)}; give an address such as http://127.0.0.1:8000"
    try:
        parts = urlsplit(address)
        port_is_one = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ConfigError(wrong) from error
    plain = address.isascii() and address.isprintable() and " " not in address
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_one or not plain:
        raise ConfigError(wrong)
    if parts.username or parts.query or parts.fragment:
        raise ConfigError(
            "the server's address has a user, a query or a fragment; leave it out, a key goes to --api-key"
        )
    return address.rstrip("/").removesuffix("/v1").rstrip("/")


def _client(url: str, key: str | None) -> "httpx2.Client":
    try:
        import httpx2
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a talk with a server needs {error.name}; install it with: pip install 'opentar[client]'"
        ) from error
    if key is not None and not (key.strip() and key.isascii() and key.isprintable()):
        raise ConfigError("the API key is empty or has characters that cannot be sent; give plain ASCII")
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        return httpx2.Client(
            base_url=url,
            headers=headers,
            # A drawing may take minutes, and a busy server queues; Ctrl-C ends the wait, and then the work.
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            # A proxy of the system knows nothing of this machine's loopback.
            trust_env=urlsplit(url).hostname not in _HERE,
        )
    except httpx2.InvalidURL as error:
        raise ConfigError(f"server is {shown(url)}; give an address such as http://127.0.0.1:8000") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _as_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _opened(content: bytes) -> "Image":
    """The picture of a file, with the texts of the file as its `info`."""
    from PIL import Image as PILImage

    from opentar.core.pictures import open_picture

    picture = open_picture(content, "the picture of the server")
    with PILImage.open(io.BytesIO(content)) as file:
        picture.info.update({key: text for key, text in file.info.items() if isinstance(text, str)})
    return picture
