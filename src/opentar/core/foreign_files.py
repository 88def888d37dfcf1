"""What a single file really is, told by its first bytes. Nothing is loaded and nothing is unpickled here."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import NamedTuple

from opentar.core.errors import shown

_POINTER = b"version https://git-lfs"
AGAIN = "download the file itself again"
NO_COMMAND = "no command takes it"
"""What stands after "is ..." where nothing can be done here with what was found."""
_PAGE_STARTS = (b"<!doctype html", b"<html", b"<?xml", b"<head")
_HEAD = 4096
"""Bytes that are looked at to tell what a file is."""
_NAMES = 4 << 20
"""Bytes of a pickle that are searched for names of tensors."""
_LONGEST_ANSWER = 2000
"""A file of fewer bytes, all of them text, is what a server said in place of the weights."""
PARTIAL = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2")


LANGUAGE, SANA, TA_TOK, AR, VQGAN, MODEL = "--llm", "--sana", "--ta-tok", "--ar", "--vqgan", "--model"
"""Kinds that some argument takes, called after it."""
TORCH, SAFETENSORS = "torch", "safetensors"
"""Kinds of files that are read on before they can be judged."""

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"GGUF", "a GGUF file (llama.cpp)", f"{NO_COMMAND}: get the model as safetensors"),
    (b"\x89HDF\r\n", "an HDF5 file (Keras)", NO_COMMAND),
    (b"\x93NUMPY", "a NumPy array", NO_COMMAND),
    (b"\x1f\x8b", "a gzip archive", "unpack it and give what is inside"),
    (b"\xfd7zXZ", "an xz archive", "unpack it and give what is inside"),
    (b"(\xb5/\xfd", "a zstd archive", "unpack it and give what is inside"),
    (b"BZh", "a bzip2 archive", "unpack it and give what is inside"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it and give what is inside"),
    (b"Rar!", "a RAR archive", "unpack it and give what is inside"),
)
"""First bytes -> what it is, and what to do"""

_TENSORS: tuple[tuple[bytes, str, str], ...] = (
    (b"bottleneck.regularizer", "an image tokenizer (ta_tok.pth)", TA_TOK),
    (b"clip_proj.", "an AR de-tokenizer (ar_dtok_*.pth)", AR),
    (b"quantize.embedding.weight", "a VQGAN (vq_ds16_t2i.pt)", VQGAN),
    (b"lora_A", "a LoRA adapter", ""),
    (b"model.embed_tokens.weight", "the weights of a language model in PyTorch's format", ""),
    (b"param_groups", "the state of an optimizer", ""),
)
"""Name of a tensor or key that tells -> what the checkpoint is, and the argument that takes it"""


class Found(NamedTuple):
    """What something is."""

    what: str
    """as it stands after "is" """
    then: str
    """what to do with it"""
    kind: str = ""
    """the argument that takes it, TORCH or SAFETENSORS; empty where nothing takes it"""


def of_file(path: Path) -> Found | None:
    """What a file is, or None where nothing is known about it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    if not size:
        return Found("empty", AGAIN)
    if path.name.endswith(PARTIAL):
        return Found("an interrupted download", "let it finish")
    if head.startswith(_POINTER):
        return Found("a git-lfs pointer, not the file it points to", f"run git lfs pull, or {AGAIN}")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGE_STARTS):
        return Found("a web page", f"{AGAIN} (on the hub: its download link, not its page)")
    for magic, what, then in _MAGIC:
        if head.startswith(magic):
            return Found(what, then)
    if head[257:262] == b"ustar":
        return Found("a tar archive", "unpack it and give what is inside")
    if path.suffix == ".onnx":
        return Found("a model in ONNX", NO_COMMAND)
    if head.startswith((b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return _of_checkpoint(path, head)
    if _is_safetensors(head, size):
        return _of_safetensors(path)
    return _of_text(head, size)


def pointers(folder: Path) -> list[str]:
    """Names of files below `folder` that are pointers of git-lfs in the place of weights, sorted."""
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*.safetensors"))
        if path.is_file() and path.stat().st_size < _LONGEST_ANSWER and _head(path).startswith(_POINTER)
    ]


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def _of_checkpoint(path: Path, head: bytes) -> Found | None:
    """What a zip archive or a pickle is: torch.save writes both."""
    if not head.startswith(b"PK"):
        return _by_tensors(path.open("rb").read(_NAMES))
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickle = next((name for name in names if name.endswith("/data.pkl")), None)
            if any("/code/" in name for name in names):
                return Found("a TorchScript program", f"{NO_COMMAND}: get the checkpoint it was made from")
            if pickle is not None:
                with archive.open(pickle) as stream:
                    return _by_tensors(stream.read(_NAMES))
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError):
        return Found("cut short or damaged (a zip archive without a readable list of files)", AGAIN)
    if any(name.endswith(".npy") for name in names):
        return Found("a NumPy archive", NO_COMMAND)
    return Found("a zip archive", "unpack it and give what is inside")


def _by_tensors(content: bytes) -> Found:
    for name, what, kind in _TENSORS:
        if name in content:
            return Found(what, f"give it to `opentar import tar` as {kind}" if kind else NO_COMMAND, kind)
    return Found("a file of torch.save", "`opentar import tar` takes the published ones", TORCH)


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= 100_000_000 and size > 8


def _of_safetensors(path: Path) -> Found:
    needed = _safetensors_bytes(path)
    if needed is None or needed > path.stat().st_size:
        told = "" if needed is None else f" ({path.stat().st_size:,} of {needed:,} bytes)"
        return Found(f"a safetensors file that is cut short{told}", AGAIN)
    return Found("a safetensors file", "another kind of file, or a folder, is expected here", SAFETENSORS)


def _safetensors_bytes(path: Path) -> int | None:
    """How long the header says the file is; None where it is not whole."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            content = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in content.items() if name != "__metadata__"]
            return 8 + length + max((int(end) for end in ends), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return None


def _of_text(head: bytes, size: int) -> Found | None:
    """Short texts: JSON, or what a server answered in place of the file."""
    if size > _LONGEST_ANSWER:
        return None
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not all(letter.isprintable() or letter.isspace() for letter in text):
        return None
    return Found(f"a text ({shown(text.strip())})", AGAIN)
