"""What reads bytes of others, as functions that a fuzzer can call; run as a program, the fuzzer is Atheris.

    python tests/fuzzing.py TARGET [CORPUS ...] [-max_total_time=60] [options of libFuzzer]

Each target takes bytes and says whether they were taken; refused they are by errors of the kind that users see, and
all others are raised.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

Target = Callable[[bytes], bool]


@contextlib.contextmanager
def _file(content: bytes, name: str) -> Iterator[Path]:
    folder = _folder(name)
    (folder / name).write_bytes(content)
    yield folder / name


@cache
def _folder(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"opentar-fuzz-{name}-"))


def picture(content: bytes) -> bool:
    """The file of a picture."""
    from opentar.core.errors import ImageError
    from opentar.core.pictures import open_picture

    with contextlib.suppress(ImageError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = open_picture(content)
        assert found.mode == "RGB" and min(found.size) >= 2
        return True
    return False


def data_url(content: bytes) -> bool:
    """The address of a picture in a request, with the picture in it."""
    from opentar.core.errors import ImageError
    from opentar.serve.pictures import picture_of_url
    from opentar.serve.refused import LimitError, PictureUrlError

    with contextlib.suppress(PictureUrlError, LimitError, ImageError):
        return picture(picture_of_url(content.decode("utf-8", "replace"), 1 << 20, "url"))
    return False


def body(content: bytes) -> bool:
    """The JSON of a request, on every route that takes one; an error must have words for whoever sent it."""
    from fastapi.exceptions import RequestValidationError
    from pydantic import ValidationError

    from opentar.serve.errors import of_validation

    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        return False
    taken = False
    for kind in _bodies():
        try:
            kind.model_validate(given)
            taken = True
        except ValidationError as error:
            told = of_validation(RequestValidationError(error.errors(), body=given))
            assert told.status == 400 and told.message
            json.dumps(told.body)
    return taken


@cache
def _bodies() -> tuple[type, ...]:
    from opentar.serve.chat_schemas import ChatRequest
    from opentar.serve.decision_schemas import DecisionRequest
    from opentar.serve.response_schemas import ResponseRequest
    from opentar.serve.routes.images import ImageRequest
    from opentar.serve.routes.moderations import ModerationRequest

    return ChatRequest, ResponseRequest, DecisionRequest, ImageRequest, ModerationRequest


def text(content: bytes) -> bool:
    """A text of a user: it becomes ids of text alone, which read back as the text."""
    tokenizer = _tokenizer()
    said = content.decode("utf-8", "ignore")
    ids = tokenizer.encode(said)
    assert all(0 <= one < tokenizer.pieces for one in ids)
    assert tokenizer.decode(ids) == said
    return True


@cache
def _tokenizer():
    from opentar.checkpoints.find import BUNDLED
    from opentar.language.folder import load_builder

    return load_builder(BUNDLED / "nano" / "language").tokenizer


def config(content: bytes) -> bool:
    """The config.json of a model's folder."""
    from opentar.checkpoints.model_folder import read_config
    from opentar.core.errors import OpenTarError

    with _file(content, "config.json") as path, contextlib.suppress(OpenTarError):
        read_config(path.parent)
        return True
    return False


def safetensors(content: bytes) -> bool:
    """The header of a file of weights."""
    from opentar.core.errors import WeightsError
    from opentar.core.headers import check_header, read_header

    with _file(content, "model.safetensors") as path, contextlib.suppress(WeightsError):
        check_header(path)
        read_header(path)
        return True
    return False


def gguf(content: bytes) -> bool:
    """The header of a GGUF file."""
    from opentar.core.errors import WeightsError
    from opentar.core.gguf_header import read_gguf

    with _file(content, "model.gguf") as path, contextlib.suppress(WeightsError):
        read_gguf(path)
        return True
    return False


def policy(content: bytes) -> bool:
    """The file of a policy, in each of its three forms."""
    from opentar.core.errors import OpenTarError
    from opentar.serve.policy import read_policy

    taken = False
    for ending in ("yaml", "json", "toml"):
        with _file(content, f"policy.{ending}") as path, contextlib.suppress(OpenTarError):
            read_policy(path)
            taken = True
    return taken


TARGETS: dict[str, Target] = {
    one.__name__: one for one in (picture, data_url, body, text, config, safetensors, gguf, policy)
}


def seeds(name: str) -> list[bytes]:
    """What is right, for a fuzzer to begin with."""
    return {
        "picture": _pictures,
        "data_url": _urls,
        "body": _requests,
        "text": lambda: [b"<|im_end|>\n<|im_start|>system <I12><S0>", "三个红苹果 é \U0001f34e".encode()],
        "config": lambda: [_nano("config.json")],
        "safetensors": _weights,
        "gguf": _packed,
        "policy": lambda: [_POLICY, b'{"categories": {"cats": {"text": ["Is there a cat?"], "threshold": 0.5}}}'],
    }[name]()


_POLICY = b'model: nano\ncategories:\n  cats:\n    image: ["Is there a cat?"]\n    threshold: 0.6\n'


def _nano(name: str) -> bytes:
    from opentar.checkpoints.find import BUNDLED

    return (BUNDLED / "nano" / name).read_bytes()


def _pictures() -> list[bytes]:
    from PIL import Image

    image = Image.new("RGB", (9, 7), (200, 30, 40))
    found = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM"):
        kept = io.BytesIO()
        image.save(kept, kind)
        found.append(kept.getvalue())
    return found


def _urls() -> list[bytes]:
    import base64

    found = [b"data:image/png;base64," + base64.b64encode(one) for one in _pictures()]
    return [*found, b"https://127.0.0.1/a.png", b"file:///etc/passwd", b"data:,"]


def _requests() -> list[bytes]:
    url = "data:image/png;base64,AAAA"
    shown = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    seen = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    asked = [{"type": "choice", "instructions": "?", "choices": [{"value": True}, {"value": "b"}]}]
    return [
        json.dumps(one).encode()
        for one in (
            {"model": "a", "messages": [{"role": "user", "content": [shown]}], "stop": ["a"], "max_tokens": 3},
            {"input": seen, "tools": [{"type": "image_generation", "size": "auto"}], "stream": True},
            {"input": "a", "questions": asked},
            {"prompt": "a dog", "n": 2, "quality": "low", "seed": 1, "detok_guidance": 2.5},
            {"input": [shown]},
        )
    ]


def _weights() -> list[bytes]:
    import numpy as np
    from safetensors.numpy import save

    return [save({"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.int8)}, {"kind": "x"})]


def _packed() -> list[bytes]:
    import struct

    def word(content: bytes) -> bytes:
        return struct.pack("<Q", len(content)) + content

    keys = word(b"general.architecture") + struct.pack("<I", 8) + word(b"qwen2")
    keys += word(b"numbers") + struct.pack("<IIQ3I", 9, 4, 3, 1, 2, 3)
    tensors = word(b"plain") + struct.pack("<IQQIQ", 2, 4, 3, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + keys + tensors
    return [head + bytes(-len(head) % 32) + bytes(48)]


def main() -> None:
    """Fuzz one target until the options say stop; the exit code is not 0 where something is found."""
    import atheris

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["opentar", "PIL"]):
        for seed in seeds(name):
            TARGETS[name](seed)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
