"""The model card of a model folder: what it is, its parts and their licences, how to use it, what it learned from.

The card is for people: it is no part of the manifest, so whoever edits it does not damage the model.
"""

from __future__ import annotations

from pathlib import Path

from opentar.checkpoints.model_folder import part_files, read_config, read_vocab
from opentar.checkpoints.settings import ModelConfig
from opentar.core.disk import human_bytes
from opentar.core.errors import OutputError, shown
from opentar.core.folder import folder_hash

CARD = "README.md"
_TASKS = {
    "ta_tok": "picture -> codes, codes -> features",
    "language": "words and codes -> words and codes: a Qwen2 model",
    "detok_diffusion": "features -> picture, in steps from noise",
    "detok_ar": "features -> picture, code after code",
}
_KNOWN_LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")


def write_card(folder: Path) -> Path:
    """Write README.md into a finished model folder and return its path; a card that is there already is kept.

    Raises:
        WeightsError, ConfigError, ModelError: the folder is no whole model.
        OutputError: the disk refuses.
    """
    path = Path(folder) / CARD
    if path.exists():
        return path
    text = model_card(folder)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot write {shown(path)}: {error.strerror or error}; the model itself is whole"
        ) from error
    return path


def model_card(folder: Path) -> str:
    """The Markdown of the card, with the header that the hub reads. Errors as `write_card`."""
    folder = Path(folder)
    config = read_config(folder)
    sizes = dict(part_files(folder))
    rows = "\n".join(
        f"| `{part}/` | {_task(part)} | "
        f"{human_bytes(sum(size for name, size in sizes.items() if name.startswith(f'{part}/')))} | "
        f"{_cell(config.part_licences.get(part) or config.licence or 'not stated')} |"
        for part in config.parts
    )
    return f"""---
library_name: opentar
pipeline_tag: any-to-any
{_header(config)}---

# {config.name}

A model of OpenTar, which implements the idea of [Tar](https://arxiv.org/abs/2506.18898): pictures are encoded in codes
that are made of words, and one language model reads and writes both. {_can(config)}
Hash of the content: `{folder_hash(folder)}`.

## Parts

| folder | job | size | licence |
|---|---|---|---|
{rows}

{_grids(folder)}
{_sources(config)}
## Use

```python
from opentar import Tar

tar = Tar.from_pretrained("path/of/this/folder")
{_example(config)}print(tar.ask("picture.png", "What is in the picture?"))
```

A part also loads alone:

```python
from opentar.image_to_tokens.ta_tok import TATok
from opentar.language.folder import load_language

ta_tok = TATok.from_folder("path/of/this/folder/ta_tok")
model, builder = load_language("path/of/this/folder/language")
```

`opentar export qwen2` writes the language part as a plain Qwen2 folder for other tools.

## Licence

{config.licence or "Not stated."}

## Data

{config.data or "Not stated."}
"""


def _header(config: ModelConfig) -> str:
    licence = config.licence.lower()
    return f"license: {licence}\n" if licence in _KNOWN_LICENCES else "license: other\n"


def _task(part: str) -> str:
    base = next(name for name in sorted(_TASKS, key=len, reverse=True) if part.startswith(name))
    return _TASKS[base]


def _can(config: ModelConfig) -> str:
    if not config.detokenizers:
        return "It reads pictures; to draw them it would need a de-tokenizer."
    return f"It reads pictures and draws them ({', '.join(config.detokenizers)})."


def _grids(folder: Path) -> str:
    vocab = read_vocab(folder)
    lengths = ", ".join(f"{scale.length} (scale {scale.index})" for scale in vocab.scales)
    return f"A picture is {lengths} codes out of {vocab.codebook_size}.\n"


def _sources(config: ModelConfig) -> str:
    if not config.sources:
        return ""
    listed = "\n".join(
        f"- `{part}`: {', '.join(f'`{name}`' for name in names)}" for part, names in config.sources.items()
    )
    return f"Made from these files:\n\n{listed}\n\n"


def _example(config: ModelConfig) -> str:
    return 'tar.generate("a red apple", seed=0)[0].save("picture.png")\n' if config.detokenizers else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
