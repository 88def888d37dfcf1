"""Which files of which repositories make a published model: names only, nothing is fetched here."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opentar.checkpoints.find import PUBLISHED
from opentar.core.errors import ConfigError, ModelError, nearest, shown

TOKENIZER = "csuhan/TA-Tok"
TA_TOK_FILE = "ta_tok.pth"
VQGAN, VQGAN_FILE = "peizesun/llamagen_t2i", "vq_ds16_t2i.pt"
AR = {f"ar_{pixels}": f"ar_dtok_lp_{pixels}px.pth" for pixels in (256, 512, 1024)}
"""AR de-tokenizer -> its file in TOKENIZER"""
SANA = {f"sana_{pixels}": f"csuhan/Tar-SANA-600M-{pixels}px" for pixels in (512, 1024)}
"""diffusion de-tokenizer -> its repository"""
DEFAULT_PARTS = ("ar_256",)
LLM_PATTERNS = (
    *("config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"),
)
SANA_PATTERNS = (
    *("model_index.json", "scheduler/*.json", "negative_prompt_embeds.pth"),
    *(f"{part}/{kind}" for part in ("transformer", "vae") for kind in ("config.json", "diffusion_pytorch_model*.json")),
    *(f"{part}/diffusion_pytorch_model*.safetensors" for part in ("transformer", "vae")),
)
_NEEDED = {"config.json", "model_index.json", TA_TOK_FILE, VQGAN_FILE, *AR.values()}
_REVISION = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Files of one repository."""

    repository: str
    """owner/name"""
    patterns: tuple[str, ...]
    """names of files; * stands for any letters"""
    revision: str = "main"
    """branch, tag or commit"""


def check_model(name: str) -> None:
    """Raise ModelError unless `name` is one of PUBLISHED."""
    if name not in PUBLISHED:
        raise ModelError(
            f"{shown(name)} is no published model; there are: {', '.join(PUBLISHED)}.{nearest(name, PUBLISHED)}"
        )


def parts_of(names: Sequence[str]) -> tuple[str, ...]:
    """The de-tokenizers of a model that is fetched: the usual one and `names`, each once, the smallest of a kind first.

    Raises:
        ConfigError: an unknown name.
    """
    known = (*AR, *SANA)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{shown(name)} is no published part; there are: {', '.join(known)}.{nearest(name, known)}"
            )
    return tuple(name for name in known if name in (*DEFAULT_PARTS, *names))


def file_of(part: str) -> str:
    """The file of an AR de-tokenizer, or the folder that a diffusion de-tokenizer's repository is called after."""
    return AR[part] if part in AR else SANA[part].rpartition("/")[2]


def unnamed(parts: Sequence[str], sources: Iterable[str]) -> tuple[str, ...]:
    """Those of `parts` whose files are none of the `sources` of a model, as `ModelConfig.sources` names them."""
    # "owner/name@commit/file" or "owner/name@commit" from the hub, the bare name where it was imported by hand.
    names = {name for file in sources for name in (file.rpartition("/")[2], file.partition("@")[0].rpartition("/")[2])}
    return tuple(part for part in parts if file_of(part) not in names)


def fetches(
    model: str,
    parts: Sequence[str],
    revisions: Mapping[str, str] | None = None,
    *,
    whole: bool = True,
    canvas: bool = True,
) -> tuple[Fetch, ...]:
    """What has to be fetched for `model` with the de-tokenizers `parts` (names of AR and SANA).

    Without `whole` only what the parts themselves need, for a model that has the rest; without `canvas` it has the
    VQGAN too.
    """
    ar_files = tuple(AR[part] for part in parts if part in AR)
    wanted: list[tuple[str, tuple[str, ...]]] = []
    if whole:
        wanted = [(model, LLM_PATTERNS), (TOKENIZER, (TA_TOK_FILE, *ar_files))]
    elif ar_files:
        wanted = [(TOKENIZER, ar_files)]
    if ar_files and (whole or canvas):
        wanted.append((VQGAN, (VQGAN_FILE,)))
    wanted += [(SANA[part], SANA_PATTERNS) for part in parts if part in SANA]
    given = revisions or {}
    return tuple(
        Fetch(repository=repository, patterns=patterns, revision=given.get(repository, "main"))
        for repository, patterns in wanted
    )


def absent(fetch: Fetch, names: Iterable[str]) -> tuple[str, ...]:
    """The patterns of `fetch` that a model cannot do without and that none of the files `names` fits."""
    names = tuple(names)
    needed = [pattern for pattern in fetch.patterns if pattern in _NEEDED or pattern.endswith(".safetensors")]
    return tuple(pattern for pattern in needed if not any(fnmatch.fnmatchcase(name, pattern) for name in names))


def by_hand(model: str, parts: Sequence[str], plan: Sequence[Fetch], folder: Path, *, new: bool) -> str:
    """Which files to get from where, and the command that makes or adds to `folder`, ready to be pasted."""
    words = ["opentar", "import", "tar"]
    if new:
        words += ["--llm", model.rpartition("/")[2], "--ta-tok", TA_TOK_FILE]
    else:
        words += ["--add", str(folder.absolute())]
    words += [word for part in parts if part in AR for word in ("--ar", file_of(part))]
    if any(fetch.repository == VQGAN for fetch in plan):
        words += ["--vqgan", VQGAN_FILE]
    words += [word for part in parts if part in SANA for word in ("--sana", file_of(part))]
    if new:
        # The cache itself: only there the model is found by its name.
        words += ["-o", str(folder.absolute())]
    # A user's name may hold a space, and so may the path of the cache.
    command = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
    return f"By hand: get {'; '.join(_named(fetch) for fetch in plan)}; then run: {command}"


def _named(fetch: Fetch) -> str:
    """What to get of one repository, for people."""
    at = "" if fetch.revision == "main" else f" at {fetch.revision}"
    if any("*" in pattern for pattern in fetch.patterns):
        return f"all of {fetch.repository}{at} as folder {fetch.repository.rpartition('/')[2]}"
    return f"{', '.join(fetch.patterns)} of {fetch.repository}{at}"


def revisions_of(model: str, given: Sequence[str]) -> dict[str, str]:
    """Repository -> revision from texts "REVISION" (of the model itself) and "owner/name=REVISION".

    Raises:
        ConfigError: no revision, an unknown repository, or one that is named twice.
    """
    known = (model, TOKENIZER, VQGAN, *SANA.values())
    found: dict[str, str] = {}
    for text in given:
        repository, _, revision = text.rpartition("=")
        repository = repository or model
        if repository not in known:
            raise ConfigError(f"revision {shown(text)}: the repositories are {', '.join(known)}")
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise ConfigError(f"revision {shown(text)} is none; give a branch, a tag or a commit")
        if repository in found:
            raise ConfigError(f"two revisions of {repository} are given; give one")
        found[repository] = revision
    return found
