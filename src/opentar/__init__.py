"""OpenTar: text and pictures in one language, drawn and read by one small model.

`from opentar import Tar` loads the pipeline on first use, so that importing the package itself stays cheap. It imports
nothing at all, not even `typing`: Ctrl-C during an import here would show a traceback.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from opentar.core.errors import OpenTarError
    from opentar.pipeline import Tar, UnknownWordsWarning

__version__ = "0.1.0"
__all__ = ["OpenTarError", "Tar", "UnknownWordsWarning", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the pipeline (and torch with it) only when somebody asks for what it holds."""
    if name == "OpenTarError":
        from opentar.core.errors import OpenTarError

        return OpenTarError
    if name in ("Tar", "UnknownWordsWarning"):
        from opentar import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'opentar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
