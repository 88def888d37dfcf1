"""Peak memory of this process between two moments: of the card where one is used, else of the machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from opentar.core.memory import peak_gigabytes

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def forget_peak() -> None:
    """Let the peak start again at what is resident now, where the system can (Linux); else it stays."""
    if (card := _card()) is not None:
        card.reset_peak_memory_stats()
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        # Another system, or a container that forbids it: the peak is then that since the process began.
        return


def peak_gb() -> float | None:
    """Largest resident memory in GB (1e9 bytes) since `forget_peak`, mapped weights that were touched included.

    Where the system cannot forget, since the start of the process; None where it does not say. With weights on a card
    of CUDA it is what PyTorch held there.
    """
    if (card := _card()) is not None:
        return float(card.max_memory_allocated()) / 1e9
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    except (OSError, ValueError, IndexError):
        pass
    peak = peak_gigabytes()
    return peak if peak == peak else None


def _card() -> Any:
    """torch.cuda where this process uses it; PyTorch is not imported for that."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
