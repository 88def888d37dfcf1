"""Whose the published parts are, and what is known of their licences. Nothing here is guessed.

The publication that this project follows names no licence for any of its weights, so the table says where to look.
When a model is fetched from the hub, what the page of its repository states is written down instead.
"""

from __future__ import annotations

HUB = "https://huggingface.co"
SEE_PAGE = "not known here"
LOCAL = "not known here: imported from local files; see the page of the repository that they came from"

LICENCES: dict[str, str] = {
    "csuhan/Tar-1.5B": SEE_PAGE,
    "csuhan/Tar-7B-v0.1": SEE_PAGE,
    "ByteDance-Seed/Tar-7B": SEE_PAGE,
    "csuhan/TA-Tok": SEE_PAGE,
    "peizesun/llamagen_t2i": SEE_PAGE,
    "csuhan/Tar-SANA-600M-512px": SEE_PAGE,
    "csuhan/Tar-SANA-600M-1024px": SEE_PAGE,
}
"""repository -> licence of its weights"""


def licence_of(repository: str, stated: str = "") -> str:
    """The licence of a repository's files in one line.

    Args:
        repository: "owner/name" on the hub; empty for local files.
        stated: what the repository's own page says, if it was read.
    """
    if not repository:
        return LOCAL
    page = f"{HUB}/{repository}"
    if stated:
        return f"{stated}, as {page} states"
    return f"{LICENCES.get(repository, SEE_PAGE)}: see {page}"
