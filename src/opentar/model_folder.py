"""The folder of a whole model: `config.json`, one subfolder a part, and a manifest written last.

```
config.json         kind "opentar", parts, defaults, words, licence, data
ta_tok/             picture <-> codes; words.txt names the codebook's rows, one line each
language/           tokens -> tokens: a plain Qwen2 folder with its tokenizer
detok_diffusion/    codes -> picture (flow matching)
detok_ar/           codes -> picture (autoregressive)
detok_ar_512/       further ones of a kind, named by the side of their pictures in pixels
manifest.json       size and sha256 of every file
```
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from opentar.core import environment
from opentar.core import folder as checkpoint
from opentar.core.config import from_dict, plain_number, to_dict
from opentar.core.errors import ConfigError, ModelError, OutputError, WeightsError, nearest, shown
from opentar.core.folder import CONFIG
from opentar.vocab import Vocab

PARTS = ("ta_tok", "language", "detok_diffusion", "detok_ar")
"""Names of parts; a further de-tokenizer of a kind adds the side of its pictures, as in detok_ar_512."""
REQUIRED_PARTS = ("ta_tok", "language")
DETOK_PREFIX = "detok_"
_FURTHER = re.compile(r"(detok_[a-z]+)_[1-9][0-9]{0,4}")
MAX_PICTURES = 1000
"""Most pictures of one call."""
MAX_SEED = 2**62
MAX_ANSWER = 100_000
"""Most ids of an answer."""
BUNDLED = Path(__file__).resolve().parent / "models"
PUBLISHED = ("csuhan/Tar-1.5B", "csuhan/Tar-7B-v0.1", "ByteDance-Seed/Tar-7B")
"""Published models that can be fetched by name (`opentar pull`); published/catalogue.py says what they are made of."""


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """How a picture is drawn: a model's defaults, or one call's choice. Raises ConfigError for values out of range."""

    scale: int = 1
    """Index of the code grid: 0 (finest) to 2 (coarsest)."""
    detok: str = "diffusion"
    """De-tokenizer: diffusion or ar, or a further one with the side of its pictures, such as ar_512."""
    temperature: float = 0.7
    """Of the language model over codes, 0 to 10; 0 takes the likeliest code."""
    top_k: int = 0
    """Keep this many likeliest codes; 0 keeps all."""
    top_p: float = 0.95
    """Keep the likeliest codes up to this probability; 1 keeps all."""
    guidance: float = 1.0
    """Of the language model, 1 (none) to 50."""
    detok_guidance: float | None = None
    """Of the de-tokenizer, 1 (none) to 50; None is the de-tokenizer's own default."""
    steps: int | None = None
    """Of a diffusion de-tokenizer, 1 to 1000; None is the de-tokenizer's own default."""

    def __post_init__(self) -> None:
        check_range("temperature", self.temperature, 0, 10)
        check_range("guidance", self.guidance, 1, 50)
        check_range("top_k", self.top_k, 0, 10_000_000, whole=True)
        check_range("top_p", self.top_p, 0, 1)
        if self.detok_guidance is not None:
            check_range("detok_guidance", self.detok_guidance, 1, 50)
        if self.steps is not None:
            check_range("steps", self.steps, 1, 1000, whole=True)


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How a picture is read where the call does not say."""

    scale: int = 1
    """Index of the code grid."""
    max_new_tokens: int = 64
    """Longest answer."""
    describe: str = "What is in the picture?"
    """The question behind `describe`."""

    def __post_init__(self) -> None:
        check_range("max_new_tokens", self.max_new_tokens, 1, MAX_ANSWER, whole=True)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Defaults of both directions."""

    draw: DrawSettings = field(default_factory=DrawSettings)
    """text -> picture"""
    read: ReadSettings = field(default_factory=ReadSettings)
    """picture -> text"""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """`config.json` of a model folder. Raises ConfigError or ModelError for values that make no model."""

    kind: Literal["opentar"] = "opentar"
    """What this folder is."""
    format: Literal[1] = 1
    """Version of this layout."""
    name: str = "opentar"
    """How the model calls itself."""
    parts: tuple[str, ...] = REQUIRED_PARTS
    """Subfolders that belong to the model."""
    defaults: Defaults = field(default_factory=Defaults)
    """Settings of calls that do not say."""
    fit: Literal["squash", "letterbox"] = "squash"
    """How a picture that is not square is read."""
    known_words: tuple[str, ...] = ()
    """Words of the training texts, English and Chinese; empty: unknown."""
    licence: str = ""
    """Licence of the weights."""
    data: str = ""
    """What it was trained on."""
    part_licences: dict[str, str] = field(default_factory=dict)
    """Part -> its licence, where the parts come from different places."""
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Part -> the files it was imported from: names, or "owner/repository@commit/name" of files from the hub."""

    def __post_init__(self) -> None:
        for part in self.parts:
            if not is_part(part):
                raise ModelError(
                    f"config.parts names {shown(part)}; parts are {', '.join(PARTS)}, and detok_KIND_PIXELS such as "
                    f"detok_ar_512.{nearest(part, PARTS)}"
                )
        if len(set(self.parts)) != len(self.parts):
            raise ModelError(f"config.parts is {', '.join(self.parts)}; name every part once")
        for where, told in (("part_licences", self.part_licences), ("sources", self.sources)):
            for part in told:
                if part not in self.parts:
                    raise ModelError(f"config.{where} names {shown(part)}; this model has {', '.join(self.parts)}")
        missing = [part for part in REQUIRED_PARTS if part not in self.parts]
        if missing:
            raise ModelError(f"config.parts lacks {', '.join(missing)}; every model needs {', '.join(REQUIRED_PARTS)}")
        known = self.detokenizers
        if known and self.defaults.draw.detok not in known:
            raise ModelError(
                f"defaults.draw.detok is {shown(self.defaults.draw.detok)}; this model has {', '.join(known)}"
            )

    @property
    def detokenizers(self) -> tuple[str, ...]:
        """Names of the de-tokenizers the model has, such as diffusion, ar and ar_512."""
        return tuple(part.removeprefix(DETOK_PREFIX) for part in self.parts if part.startswith(DETOK_PREFIX))


def is_part(name: str) -> bool:
    """Whether `name` is one of PARTS, or a de-tokenizer of PARTS with the side of its pictures: detok_ar_512."""
    further = _FURTHER.fullmatch(name)
    return name in PARTS or (further is not None and further[1] in PARTS)


def check_range(name: str, value: object, low: float, high: float, whole: bool = False) -> Any:
    """`value` as a plain int (or float), where it is a number (a whole one) from `low` to `high`; else ConfigError.

    Numbers of numpy and torch are numbers; True and False are not.
    """
    number = plain_number(value)
    kinds = (int,) if whole else (int, float)
    # Comparisons with NaN are false, so NaN is refused too.
    if isinstance(number, bool) or not isinstance(number, kinds) or not low <= number <= high:
        told = number if isinstance(number, (bool, int, float)) else shown(value)
        raise ConfigError(f"{name} is {told}; it must be a {'whole ' if whole else ''}number from {low} to {high}")
    return number


def bundled_models() -> tuple[str, ...]:
    """Names of the models that came with the package."""
    if not BUNDLED.is_dir():
        return ()
    return tuple(sorted(folder.name for folder in BUNDLED.iterdir() if (folder / CONFIG).is_file()))


def cached_model(name: str) -> Path:
    """Where a published model stands once it has been fetched and imported: in OpenTar's cache folder."""
    return environment.cache_dir() / "models" / name.replace("/", "--")


def find_model(name_or_path: str | Path) -> Path:
    """The folder of a model given by a bundled name (`nano`), a path, or the name of a published model in the cache.

    A bundled name wins over a folder of the same name; write `./nano` for the folder. A folder wins over a published
    name. Nothing is fetched here.

    Raises:
        ModelError: none of them, or a published model that has not been fetched.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        kind = type(name_or_path).__name__
        raise ModelError(f"a model is given by its name or its folder, not by {kind}; give a string or a path")
    names = bundled_models()
    if isinstance(name_or_path, str) and name_or_path in names:
        return BUNDLED / name_or_path
    text = str(name_or_path)
    if not text:
        raise ModelError(f"the name of the model is empty; give a folder or one of: {', '.join(names)}")
    folder = environment.expanded(name_or_path)
    try:
        is_folder, is_file, has_config = folder.is_dir(), folder.is_file(), (folder / CONFIG).is_file()
    except (OSError, ValueError):
        # A name that no file system can hold, such as one of 5,000 letters.
        is_folder = is_file = has_config = False
    if is_folder and has_config:
        return folder
    if text in PUBLISHED and not is_folder:
        try:
            return checkpoint.standing(cached_model(text))
        except WeightsError as error:
            raise ModelError(f"{text} has not been fetched yet; run: opentar pull {text}") from error
    listed = ", ".join(names) or "(no model is bundled with this installation)"
    if is_folder:
        raise ModelError(f"folder {shown(text)} has no {CONFIG}; give a model folder or one of: {listed}")
    if is_file:
        raise ModelError(f"{shown(text)} is a file; give the folder of a model or one of: {listed}")
    hint = nearest(text, (*names, *PUBLISHED))
    raise ModelError(f"model {shown(text)} is unknown; give a folder or one of: {listed}.{hint}")


def read_config(folder: Path) -> ModelConfig:
    """Read and check `config.json`.

    Raises:
        WeightsError: the file is no JSON object, or the folder is not an OpenTar model.
        ConfigError: unknown keys or values of a wrong type.
    """
    values = checkpoint.read_config(folder)
    if values.get("kind") != "opentar":
        raise WeightsError(
            f'{shown(folder)} is not an OpenTar model (kind "opentar"); give the folder of a whole model'
        )
    return from_dict(ModelConfig, values, where=f"{folder.name}/{CONFIG}")


def write_model(folder: Path, config: ModelConfig, parts: Mapping[str, Path]) -> None:
    """Put finished part folders together into the model folder `folder`, which must not exist or be empty.

    Args:
        config: its `parts` must be exactly the keys of `parts`.
        parts: part name -> folder written by that part's own `save`.

    Raises:
        OutputError: `folder` holds something already or cannot be written.
        ModelError: a part is missing, or one is given that the config does not name.
    """
    if set(parts) != set(config.parts):
        raise ModelError(f"parts given: {', '.join(parts)}; the config names {', '.join(config.parts)}")
    for name, source in parts.items():
        if not (source / CONFIG).is_file():
            raise ModelError(f"part {name}: folder {shown(source)} has no {CONFIG}; train or save the part first")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise OutputError(f"{shown(folder)} exists and is not an empty folder; choose another name")
    with checkpoint.atomic_folder(folder) as unfinished:
        for name, source in parts.items():
            shutil.copytree(source, unfinished / name)
        write_config(unfinished, config)


def write_config(folder: Path, config: ModelConfig) -> None:
    """Write `config` into an unfinished model folder (`core.folder.atomic_folder`), where its parts stand already."""
    text = json.dumps(to_dict(config), ensure_ascii=False, indent=1)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def part_files(folder: Path) -> Iterator[tuple[str, int]]:
    """(path relative to `folder`, bytes) of every file of the model, sorted."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.stat().st_size


def detok_part(config: ModelConfig, name: str) -> str:
    """The part folder of de-tokenizer `name`.

    Raises:
        ModelError: the model has no such de-tokenizer.
    """
    if isinstance(name, str) and name in config.detokenizers:
        return DETOK_PREFIX + name
    allowed = config.detokenizers
    has = ", ".join(allowed) or "none (it can only read)"
    raise ModelError(
        f"de-tokenizer {shown(name)} is unknown to this model; it has: {has}.{nearest(str(name), allowed)}"
    )


def read_words(folder: Path) -> list[str]:
    """The words of the codebook's rows from `ta_tok/words.txt`; an empty list where the model ships none."""
    path = folder / "ta_tok" / "words.txt"
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def read_vocab(folder: Path) -> Vocab:
    """The alphabet of the model, from the language part's config alone: no weights, no transformers.

    Raises:
        WeightsError: the language part is missing or damaged.
    """
    part = folder / "language"
    ours = checkpoint.read_config(part).get("opentar")
    sizes = ours.get("language") if isinstance(ours, dict) else None
    if not isinstance(sizes, dict):
        raise WeightsError(f"{shown(part)} is no OpenTar language folder: its {CONFIG} has no opentar.language")
    names = ("text_size", "codebook_size", "grid_side", "first_new")
    return from_dict(Vocab, {name: sizes[name] for name in names if name in sizes}, where="opentar.language")
