"""How often each key may ask: a bucket of tokens that fills again with time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from opentar.core.errors import ConfigError

_MINUTE = 60.0


class Rate:
    """Lets each key pass so many times a minute, in any rhythm. Keys are those of the server, so they are few.

    Args:
        per_minute: requests of one key in a minute; 1 or more.
        clock: seconds, never going back.

    Raises ConfigError for a rate below 1.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        if per_minute < 1:
            raise ConfigError(f"the rate is {per_minute} requests a minute; it must be 1 or more")
        self.per_minute, self._clock = per_minute, clock
        self._left: dict[bytes, tuple[float, float]] = {}

    def wait(self, key: bytes) -> int:
        """0 where the key may ask now, which is counted; else whole seconds until it may, at most a minute."""
        now = self._clock()
        left, then = self._left.get(key, (float(self.per_minute), now))
        left = min(float(self.per_minute), left + (now - then) * self.per_minute / _MINUTE)
        asked = left >= 1
        self._left[key] = (left - asked, now)
        return 0 if asked else max(1, math.ceil((1 - left) * _MINUTE / self.per_minute))
