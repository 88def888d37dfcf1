"""What the service takes on at most."""

from __future__ import annotations

from dataclasses import dataclass

from opentar.core.errors import ConfigError
from opentar.engine.engine import BATCH


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one service. Raises ConfigError for values out of range."""

    batch: int = BATCH
    """Answers of one model that are made side by side."""
    queue: int = 64
    """Answers that may wait beside those; a further one is refused."""
    seconds: float = 600.0
    """Longest time of one request, waiting included."""
    memory: int | None = None
    """Bytes that the files of loaded models may have together; None loads all that are asked for."""
    picture_bytes: int = 20 << 20
    """Largest picture file that is taken."""
    pictures: int = 16
    """Most pictures of one request."""
    kept_pictures: int = 1024
    """Pictures whose codes are remembered, so that one that comes again is not encoded again."""
    stored_responses: int = 1024
    """Responses that are kept for those who go on after them."""
    stored_bytes: int = 256 << 20
    """Of all of them together."""
    body_bytes: int = 64 << 20
    """Largest body of one HTTP request."""
    body_seconds: float = 60.0
    """Longest time that the body of a request may take to come, and one part of an answer to be taken."""
    ping_seconds: float = 10.0
    """A stream is never silent for longer."""

    def __post_init__(self) -> None:
        for name in ("batch", "queue", "seconds", "picture_bytes", "pictures", "body_bytes", "body_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")
        if not self.ping_seconds > 0 or min(self.kept_pictures, self.stored_responses, self.stored_bytes) < 0:
            raise ConfigError("ping_seconds must be more than 0, and what is kept or stored 0 or more")
        if self.memory is not None and self.memory < 1:
            raise ConfigError(f"memory is {self.memory} bytes; give a size such as 8GB")
