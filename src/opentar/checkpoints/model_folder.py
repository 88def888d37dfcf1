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
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from opentar.checkpoints.settings import DETOK_PREFIX, ModelConfig
from opentar.core import folder as checkpoint
from opentar.core.config import from_dict, to_dict
from opentar.core.errors import ModelError, OutputError, WeightsError, nearest, shown
from opentar.core.folder import CONFIG
from opentar.core.foreign import refuse_foreign
from opentar.core.foreign_files import MODEL, pointers
from opentar.vocab import Vocab

_WORDS = "words.txt"


def read_config(folder: Path) -> ModelConfig:
    """Read and check `config.json`.

    Raises:
        WeightsError: the file is no JSON object, or the folder is not an OpenTar model.
        ConfigError: unknown keys or values of a wrong type.
    """
    try:
        values = checkpoint.read_config(folder)
    except WeightsError:
        # A page or a pointer in the place of the config says more than that it is no JSON.
        refuse_foreign(folder, MODEL)
        raise
    if values.get("kind") != "opentar":
        refuse_foreign(folder, MODEL)
        raise WeightsError(
            f'{shown(folder)} is not an OpenTar model (kind "opentar"); give the folder of a whole model'
        )
    if waiting := pointers(folder):
        raise WeightsError(
            f"{shown(folder)} holds git-lfs pointers in the place of its weights ({', '.join(waiting[:2])}"
            f"{', ...' if len(waiting) > 2 else ''}); run git lfs pull in it, or download it again"
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
        WeightsError: a part has no manifest, or a damaged one.
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
            # What the manifest of a part does not name is no part of it.
            for file in checkpoint.saved_files(source):
                (unfinished / name / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / file, unfinished / name / file)
        write_config(unfinished, config)


def write_config(folder: Path, config: ModelConfig) -> None:
    """Write `config` into an unfinished model folder (`core.folder.atomic_folder`), where its parts stand already."""
    text = json.dumps(to_dict(config), ensure_ascii=False, indent=1)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def part_files(folder: Path) -> Iterator[tuple[str, int]]:
    """(path relative to `folder`, bytes) of every file of the model, sorted; not of what others keep beside them.

    Raises:
        WeightsError: a manifest is missing or damaged, or a file is missing.
    """
    for name in checkpoint.saved_files(folder):
        try:
            yield name, (folder / name).stat().st_size
        except OSError as error:
            raise WeightsError(f"{shown(folder / name)} is missing; get this folder again") from error


def check_parts(folder: Path, config: ModelConfig) -> None:
    """Raise WeightsError unless the model's manifest covers every part, so that the model's hash does."""
    files = checkpoint.saved_files(folder)
    for part in config.parts:
        if f"{part}/{checkpoint.MANIFEST}" not in files:
            raise WeightsError(
                f"the {checkpoint.MANIFEST} of {shown(folder)} does not name the part {part}; get this folder again"
            )


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
    """The words of the codebook's rows from `ta_tok/words.txt`; an empty list where the model ships none.

    Raises:
        WeightsError: the file is damaged, or the manifest of the part does not name it.
    """
    content = checkpoint.read_listed(folder / "ta_tok", _WORDS)
    return [] if content is None else content.decode("utf-8").removesuffix("\n").split("\n")


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
