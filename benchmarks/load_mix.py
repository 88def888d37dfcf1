"""The requests of `serve_load.py`: a fixed mix of questions and drawings, and a client that notes when bytes move."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import time
from dataclasses import dataclass
from typing import Any

from PIL import Image

from serving import CHAT, DRAW

PROMPTS = ("a red apple", "a purple car", "three yellow stars", "a dog", "two red cats", "a blue boat")
QUESTIONS = ("What is in the picture?", "What color is it?", "Is there a cat?", "How many things are there?")
SHARE_ASKED = 0.7


@dataclass
class Answer:
    """What became of one request; moments are those of `time.perf_counter`."""

    kind: str
    status: int = 0
    """Of HTTP; 0 where there was no response."""
    head: bytes = b""
    body: bytes = b""
    sent: float = 0.0
    first: float = 0.0
    """First byte of the response."""
    shown: float = 0.0
    """First event that holds a word or a preview."""
    ended: float = 0.0

    @property
    def json(self) -> Any:
        """The body of a response that is no stream."""
        return json.loads(self.body)


async def send(port: int, kind: str, path: str, body: dict[str, Any], mark: bytes = b"") -> Answer:
    """Send a request on a connection of its own and read the response to its end.

    `mark`: bytes of the event that `shown` waits for.
    """
    answer, content = Answer(kind), json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        try:
            answer.sent = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            line = await reader.readline()
            answer.first = time.perf_counter()
            answer.status = int(line.split()[1])
            answer.head = await reader.readuntil(b"\r\n\r\n")
            lines = []
            while line := await reader.readline():
                if mark and not answer.shown and mark in line:
                    answer.shown = time.perf_counter()
                lines.append(line)
            answer.body = b"".join(lines)
        finally:
            writer.close()
    except (OSError, ValueError, IndexError, asyncio.IncompleteReadError):
        answer.status = 0
    answer.ended = time.perf_counter()
    return answer


class Mix:
    """Request number i of a fixed sequence: seven of ten ask about a picture, the others draw one.

    Half of the questions are about pictures that the server drew, as in a conversation; the others about a picture
    that it never saw.

    Args:
        model: what requests name.
        pictures: files that the server drew.
        seed: of the sequence.
    """

    def __init__(self, model: str, pictures: list[bytes], seed: int = 0) -> None:
        self.model, self._seed, self._fresh = model, seed, 0
        self._pictures = pictures

    def request(self, number: int) -> tuple[str, str, dict[str, Any]]:
        """Kind ("ask" or "draw"), path and body."""
        rng = random.Random(f"{self._seed} {number}")
        if rng.random() >= SHARE_ASKED:
            return "draw", DRAW, {"model": self.model, "prompt": rng.choice(PROMPTS), "seed": rng.randrange(10**6)}
        content = rng.choice(self._pictures)
        if rng.random() < 0.5:
            content = self._unknown(content)
        return "ask", CHAT, asked(self.model, content, rng.choice(QUESTIONS))

    def _unknown(self, content: bytes) -> bytes:
        """The picture with one other pixel, which makes it another one for the server."""
        self._fresh += 1
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        picture.putpixel((0, 0), tuple(self._fresh.to_bytes(3, "big")))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def asked(model: str, content: bytes, question: str) -> dict[str, Any]:
    """The body of a question about a picture."""
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return {"model": model, "messages": [{"role": "user", "content": parts}]}


async def drawn(port: int, model: str, count: int) -> list[bytes]:
    """Files of pictures that the server draws. Raises SystemExit where it does not."""
    found = []
    for number in range(count):
        body = {"model": model, "prompt": PROMPTS[number % len(PROMPTS)], "seed": number}
        answer = await send(port, "draw", DRAW, body)
        if answer.status != 200:
            raise SystemExit(f"the server answered {answer.status} to a drawing: {answer.body[:300]!r}")
        found.append(base64.b64decode(answer.json["data"][0]["b64_json"]))
    return found
