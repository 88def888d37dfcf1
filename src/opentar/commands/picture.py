"""`opentar info PICTURE`: what a picture file says of its making."""

import os

from opentar.commands.output import Output


def is_picture_file(name: str) -> bool:
    """Whether `name` is a file; models are names and folders. What it holds is found by `picture_info`."""
    try:
        return os.path.isfile(name)
    except ValueError:
        return False


def picture_info(output: Output, name: str) -> None:
    """Print format, size and metadata of a picture file. Raises ImageError when it is none."""
    from opentar.core.picture_formats import read_facts

    facts = read_facts(name)
    output.line(f"{name}  ({facts.kind}, {facts.width} x {facts.height})")
    width = max([len(key) for key in facts.metadata], default=0)
    for key, text in facts.metadata.items():
        output.line(f"{key:<{width}}  {text}")
    if not facts.metadata:
        output.line("says nothing of its making")
    told = {"path": name, "format": facts.kind, "width": facts.width, "height": facts.height}
    output.result(told | {"settings": facts.metadata})
