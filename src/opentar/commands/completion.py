"""`opentar completion`: the completion script of a shell, as Cyclopts writes it."""

import re
from typing import Literal

from cyclopts import App

Shell = Literal["bash", "zsh", "fish", "powershell"]


def script(app: App, shell: Shell) -> str:
    """The script that completes commands and options of `app`; pictures are completed as file names."""
    text = app.generate_completion(shell=shell)
    # Cyclopts offers files for paths only, and pictures are texts here, because "-" stands for stdin.
    if shell == "bash":
        return text.replace("\ncomplete -F", "\ncomplete -o default -F")
    if shell == "zsh":
        return re.sub(r"^(\s+'\*?\d*:(?:[^':]|\\:|'\\'')*)'( \\)?$", r"\1:_files'\2", text, flags=re.MULTILINE)
    return text
