"""Names that the command line knows before anything is imported are those of the code that they choose from."""

from __future__ import annotations

import re
from typing import Any, get_args, get_type_hints

from opentar.checkpoints.convert.quantizing import TARGETS
from opentar.checkpoints.settings import CODE_PASSES, PASSES
from opentar.commands import bench, draw, options, quantize
from opentar.engine.backends.choose import ENGINES


def _choices(annotated: Any) -> set[str]:
    """The strings of the Literal inside an annotation, however deep."""
    found: set[str] = set()
    for part in get_args(annotated):
        found |= {part} if isinstance(part, str) else _choices(part)
    return found


def test_engines() -> None:
    assert _choices(options.LanguageEngine) == set(ENGINES)


def test_passes() -> None:
    assert _choices(options.Passes) == set(PASSES)
    hints = get_type_hints(bench.bench, include_extras=True)
    assert _choices(hints["passes"]) == set(PASSES) - {"one"}, "one is always measured"
    assert _choices(draw.CodePasses) == set(CODE_PASSES)
    assert _choices(hints["code_passes"]) == set(CODE_PASSES) - {"one"}


def test_targets_of_quantize() -> None:
    (parameter,) = get_type_hints(quantize.quantize, include_extras=True)["to"].__metadata__
    assert set(re.findall(r"(?:openvino-)?int\d|gguf-\w+", parameter.help)) == set(TARGETS)
