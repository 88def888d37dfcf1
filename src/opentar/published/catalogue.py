"""Which files of which repositories make a published model: names only, nothing is fetched here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opentar.core.errors import ConfigError, ModelError, nearest, shown
from opentar.model_folder import PUBLISHED

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


def fetches(
    model: str, parts: Sequence[str], revisions: Mapping[str, str] | None = None, *, whole: bool = True
) -> tuple[Fetch, ...]:
    """What has to be fetched for `model` with the de-tokenizers `parts` (names of AR and SANA).

    Without `whole` only what the parts themselves need, for a model that has the rest.
    """
    ar_files = tuple(AR[part] for part in parts if part in AR)
    wanted: list[tuple[str, tuple[str, ...]]] = []
    if whole:
        wanted = [(model, LLM_PATTERNS), (TOKENIZER, (TA_TOK_FILE, *ar_files))]
        wanted += [(VQGAN, (VQGAN_FILE,))] if ar_files else []
    elif ar_files:
        wanted = [(TOKENIZER, ar_files)]
    wanted += [(SANA[part], SANA_PATTERNS) for part in parts if part in SANA]
    given = revisions or {}
    return tuple(
        Fetch(repository=repository, patterns=patterns, revision=given.get(repository, "main"))
        for repository, patterns in wanted
    )


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
