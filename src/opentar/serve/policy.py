"""What `/v1/moderations` asks: a policy names categories, the questions that judge them, and their thresholds.

A file in YAML, JSON or TOML:

```yaml
model: nano                 # judges where the request names none of /v1/models; default: the first
categories:
  violence:
    text: ["Does the text describe violence?"]
    image: ["Is somebody hurt?", "Is there a knife?"]
    threshold: 0.6          # default 0.5
  cats:                     # names of one's own are told beside OpenAI's
    image: ["Is there a cat?"]
```
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentar.core.config import from_dict
from opentar.core.errors import ConfigError, shown

TEXT_ONLY = ("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent")
"""Categories whose scores OpenAI's clients expect from texts alone; so is sexual/minors."""
CATEGORIES = (
    *TEXT_ONLY, "self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence",
    "violence/graphic",
)  # fmt: skip
"""Of OpenAI's object."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_/-]{0,59}")
_MOST_BYTES = 1 << 20
_MOST_QUESTIONS = 200


@dataclass(frozen=True, kw_only=True)
class Category:
    """What judges one category. Raises ConfigError for no question, or a threshold out of range."""

    text: tuple[str, ...] = ()
    """Questions about a text; yes speaks for the category."""
    image: tuple[str, ...] = ()
    """Questions about a picture."""
    threshold: float = 0.5
    """Flagged from this probability of yes on, above 0 and up to 1."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold is {self.threshold}; it must be above 0 and at most 1")
        if not (self.text or self.image):
            raise ConfigError("a category has no question; give one under text or image, or leave the category out")
        if blank := [question for question in (*self.text, *self.image) if not question.strip()]:
            raise ConfigError(f"the question {shown(blank[0])} is empty; write at least one word")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is judged. Raises ConfigError for names that cannot be told, or too many questions."""

    categories: dict[str, Category]
    """Name -> what judges it."""
    model: str | None = None
    """The model that judges, by the name it is served under; None is the first."""

    def __post_init__(self) -> None:
        for name, category in self.categories.items():
            if not _NAME.fullmatch(name):
                raise ConfigError(f"the category {shown(name)} is no name such as self-harm or my/own_one")
            if category.image and name in (*TEXT_ONLY, "sexual/minors"):
                raise ConfigError(
                    f"{name} has questions about pictures, and clients expect it of texts alone; name a category of "
                    f"your own for them, such as {name}-pictures"
                )
        count = sum(len(one.text) + len(one.image) for one in self.categories.values())
        if not 0 < count <= _MOST_QUESTIONS:
            raise ConfigError(f"the policy has {count} questions; give 1 to {_MOST_QUESTIONS}")


DEFAULT = Policy(
    categories={
        "harassment": Category(text=("Does the text insult or harass somebody?",)),
        "hate": Category(text=("Does the text express hate against a group of people?",)),
        "self-harm": Category(
            text=("Does the text speak of hurting or killing oneself?",), image=("Does the picture show self-harm?",)
        ),
        "sexual": Category(text=("Is the text sexual?",), image=("Does the picture show nudity or sex?",)),
        "violence": Category(
            text=("Does the text describe violence?",), image=("Does the picture show violence or a weapon?",)
        ),
        "violence/graphic": Category(image=("Does the picture show blood or an injury?",)),
    }
)
"""Where no file is given. It is as good as the model that answers: one that was not trained on such things guesses."""


def read_policy(path: Path) -> Policy:
    """The policy of a file; its suffix says how it is written.

    Raises ConfigError for what cannot be read, unknown or repeated keys, and what Policy and Category raise.
    """
    readers = {".json": _json, ".toml": _toml, ".yaml": _yaml, ".yml": _yaml}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"the policy {shown(path)} is no .yaml, .json or .toml file")
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"the policy {shown(path)} is larger than {_MOST_BYTES} bytes")
        mapping = reader(content.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"the policy {shown(path)} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the policy {shown(path)} is damaged: {error}") from error
    return from_dict(Policy, mapping, "policy")


def _json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is given twice")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=once)


def _toml(text: str) -> Any:
    return tomllib.loads(text)


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ConfigError("a policy in YAML needs pyyaml; install it, or write the policy in JSON or TOML") from error

    class Strict(yaml.SafeLoader):
        """Refuses a key that is given twice, and references, which can make a small file huge."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it holds a reference (*name); write it out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if len({str(key) for key in keys}) < len(keys):
                raise ValueError(f"a key is given twice in the mapping at line {node.start_mark.line + 1}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Strict)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
