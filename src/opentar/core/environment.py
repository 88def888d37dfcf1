"""The only module that reads or sets environment variables (a contract test keeps it so).

| variable | meaning |
|---|---|
| OPENTAR_CACHE | folder for downloaded models and built data; default: the user's cache folder |
| OPENTAR_DEVICE | device used when none is named on the call: cpu, cuda, mps |
| OPENTAR_API_KEY | key that requests to the server must carry, and that our own client sends |
| OPENTAR_DEBUG | 1: the command line shows tracebacks of user errors too |
| OPENTAR_TERMINAL_PICTURES | 0: never draw pictures in the terminal |
| OMP_NUM_THREADS | threads of one process |
| GOMP_SPINCOUNT | turns that a thread waits awake; the command line sets 1000 where nothing is set |
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from opentar.core.errors import ConfigError, shown

_FALSE = {"", "0", "false", "no", "off"}


def flag(name: str, default: bool = False) -> bool:
    """The variable `name` as a yes/no; unset gives `default`."""
    value = os.environ.get(name)
    return default if value is None else value.strip().lower() not in _FALSE


def cache_dir() -> Path:
    """The folder for things that can be fetched or built again. It is not created here.

    Raises:
        ConfigError: no variable names one and the user has no home folder.
    """
    if chosen := os.environ.get("OPENTAR_CACHE"):
        return expanded(chosen)
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "opentar"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else expanded("~/.cache")) / "opentar"


def expanded(path: str | Path) -> Path:
    """`path` with its `~` replaced by the user's home folder.

    Raises:
        ConfigError: there is a `~`, and neither HOME nor the system says where that is (as in some containers).
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{shown(path)} needs a home folder and this user has none; set HOME, or OPENTAR_CACHE to a writable folder"
        ) from error


def device_name() -> str | None:
    """The device named by OPENTAR_DEVICE, or None."""
    return os.environ.get("OPENTAR_DEVICE") or None


def api_keys() -> str | None:
    """The keys that requests to the server may carry, separated by spaces, or None."""
    return os.environ.get("OPENTAR_API_KEY") or None


def api_key() -> str | None:
    """The first of those keys, which a client of ours sends, or None."""
    return next(iter((api_keys() or "").split()), None)


def threads() -> int | None:
    """The number of threads that OMP_NUM_THREADS allows, or None when it is unset or not a positive number."""
    value = os.environ.get("OMP_NUM_THREADS", "").strip()
    return int(value) if value.isdecimal() and int(value) > 0 else None


def for_child(**changes: str) -> dict[str, str]:
    """A copy of this process's environment with `changes`, for a process started by us."""
    return {**os.environ, **changes}


def debug() -> bool:
    """True when tracebacks are wanted."""
    return flag("OPENTAR_DEBUG")


def terminal_pictures() -> bool:
    """False when the user does not want pictures drawn in the terminal."""
    return flag("OPENTAR_TERMINAL_PICTURES", default=True)


def quiet_libraries() -> None:
    """Ask libraries for silence where they would print to the user's terminal; a value set by the user stays."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def for_page(folder: str) -> None:
    """Tell Gradio to keep its files in `folder` and to send nothing to anybody; before a page is built."""
    os.environ["GRADIO_TEMP_DIR"] = folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def share_cores() -> None:
    """Let threads of OpenMP that wait for each other sleep soon, which costs nothing on a quiet machine; before torch.

    They would spin, and beside another busy program each would spin for a thread that cannot run: a step of Tar-1.5B
    took 2.7 times as long (docs/lab.md). A value set by the user stays.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
