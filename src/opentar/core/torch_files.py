"""Files of torch.save that others published, read so that nothing in them can run.

They are pickles. `weights_only` builds tensors and plain values and refuses every other object before it exists; one
class is let through by name, `easydict.EasyDict`, as a plain ordered dict, so that package need not be installed.
"""

from __future__ import annotations

import collections
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from opentar.core.errors import WeightsError, shown

_BLOCK = 1 << 20


def read_torch_file(path: Path, what: str, example: str) -> Any:
    """The content of a file of torch.save: tensors on the CPU, mapped from the disk where the file allows it.

    Args:
        path: the file.
        what: what it should hold, for error texts ("a VQGAN").
        example: the name such a file is published under.

    Raises:
        WeightsError: no such file, damaged, or it holds objects other than tensors and plain values.
    """
    safe: list[Any] = [(collections.OrderedDict, "easydict.EasyDict")]
    try:
        with torch.serialization.safe_globals(safe):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError as error:
        raise WeightsError(f"there is no file {shown(path)}; give the path of {what} ({example})") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path} holds objects other than tensors and plain values; give {example}") from error
    except Exception as error:
        # A malformed pickle or archive fails in a dozen unrelated ways inside torch.
        reason = (str(error).split("\n")[0] or type(error).__name__)[:120]
        raise WeightsError(f"{path} cannot be read ({reason}); download {example} again") from error


def model_of(path: Path, what: str, example: str) -> Mapping[str, Any]:
    """The mapping under "model" of a file of torch.save. Raises WeightsError as `read_torch_file`, or without one."""
    blob = read_torch_file(path, what, example)
    model = blob.get("model") if isinstance(blob, Mapping) else None
    if not isinstance(model, Mapping):
        raise WeightsError(f'{path} is not {what}; a mapping with "model" is expected, as in {example}')
    return model


def check_sums(path: Path) -> None:
    """Compare every record of a file of torch.save with its checksum; mapped tensors are read without a look at it.

    Files of the old form, and those written with the checksums switched off (all zero), have nothing to compare.

    Raises:
        WeightsError: a record differs.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            records = [record for record in archive.infolist() if record.file_size]
            if not any(record.CRC for record in records):
                return
            for record in records:
                with archive.open(record) as stream:
                    while stream.read(_BLOCK):
                        pass
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"{path} is damaged ({error}); download it again") from error
