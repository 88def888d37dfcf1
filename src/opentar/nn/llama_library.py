"""The few functions of libllama that OpenTar calls, by ctypes: the one place that knows how its structures lie.

The library is that of the package ik-llama-cpp-python (a fork of llama.cpp with wheels for three systems). Structures
of other builds differ, so another libllama needs a file like this one, with `LlamaModel`, `LlamaSequences` and
`quantize_rows`, and nothing else changes. Whatever is given to the C code must have been checked before: what it does
not like ends the process.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import sys
import weakref
from collections import deque
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from opentar.core.errors import ModelError

PACKAGE = "ik_llama_cpp"
DISTRIBUTION, VERSION = "ik-llama-cpp-python", "0.1.5"
"""The one version whose structures stand here: with another one the C code would read past them."""
INSTALL = "pip install 'opentar[llamacpp]'"
CACHE_FULL = 1
"""What `LlamaSequences.decode` returns where the cache has no gap of that size."""
_ROUNDS = 1000
"""Most times that the cache is put in order before giving up."""
_ERROR_LEVELS = (4, 5)
"""Levels of log lines that tell of an error, or go on with one."""
_NAMES = {"win32": ("llama.dll", "ggml.dll"), "darwin": ("libllama.dylib", "libggml.dylib")}
_LOG = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)


class _ModelParams(ctypes.Structure):
    _fields_: ClassVar[Any] = [
        ("devices", c_char_p),
        *((name, c_int32) for name in ("n_gpu_layers", "mla", "split_mode", "main_gpu", "max_gpu", "ncmoe")),
        *((name, c_int32) for name in ("type_k", "type_v", "max_ctx_size", "n_seq_max", "n_ubatch", "amb")),
        ("fit_margin", c_int32),
        ("fit", c_bool),
        ("worst_graph_tokens", c_int32),
        *((f"type_{name}", c_int32) for name in ("k_first", "k_last", "v_first", "v_last")),
        *((f"n_{name}", c_int32) for name in ("k_first", "k_last", "v_first", "v_last")),
        *((name, c_void_p) for name in ("tensor_split", "rpc_servers", "progress", "progress_data")),
        *((name, c_void_p) for name in ("kv_overrides", "tensor_buft_overrides")),
        *((name, c_bool) for name in ("vocab_only", "use_mmap", "use_mlock", "check_tensors", "repack_tensors")),
        *((name, c_bool) for name in ("use_thp", "validate_quants", "merge_qkv", "merge_up_gate_exps", "mtp")),
        *((name, c_bool) for name in ("dry_run", "flash_attn")),
    ]


class _ContextParams(ctypes.Structure):
    _fields_: ClassVar[Any] = [
        *((name, c_uint32) for name in ("seed", "n_ctx", "n_batch", "n_ubatch", "n_seq_max")),
        *((name, c_uint32) for name in ("n_threads", "n_threads_batch")),
        *((name, c_int32) for name in ("max_extra_alloc", "worst_case_tokens")),
        *((name, c_int) for name in ("rope_scaling_type", "pooling_type", "attention_type")),
        *((name, c_float) for name in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor")),
        *((name, c_float) for name in ("yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        *((name, c_void_p) for name in ("cb_eval", "cb_eval_data")),
        *((f"type_{name}", c_int) for name in ("k", "v", "reduce", "k_first", "k_last", "v_first", "v_last")),
        *((f"n_{name}", c_int32) for name in ("k_first", "k_last", "v_first", "v_last")),
        *((name, c_bool) for name in ("logits_all", "embeddings", "offload_kqv", "flash_attn")),
        *((name, c_int) for name in ("mla_attn", "attn_max_batch")),
        *((name, c_bool) for name in ("fused_moe_up_gate", "grouped_expert_routing", "fused_up_gate", "fused_mmad")),
        *((name, c_bool) for name in ("rope_cache", "graph_reuse")),
        ("min_experts", c_int),
        ("thresh_experts", c_float),
        *((name, c_bool) for name in ("only_active_experts", "k_cache_hadamard", "v_cache_hadamard")),
        *((name, c_bool) for name in ("split_mode_graph_scheduling", "scheduler_async", "mtp")),
        ("mtp_op_type", c_int),
        *((name, c_void_p) for name in ("abort", "abort_data", "offload_policy", "cuda_params")),
    ]


class _Batch(ctypes.Structure):
    _fields_: ClassVar[Any] = [
        ("n_tokens", c_int32),
        *((name, c_void_p) for name in ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")),
        *((name, c_int32) for name in ("all_pos_0", "all_pos_1", "all_seq_id")),
    ]


class _View(ctypes.Structure):
    _fields_: ClassVar[Any] = [
        *((name, c_int32) for name in ("n_cells", "n_seq_max", "token_count", "used_cells")),
        *((name, c_int32) for name in ("max_contiguous", "max_contiguous_idx")),
        *((name, c_void_p) for name in ("cells", "cells_sequences")),
    ]


_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_log_set": (None, [_LOG, c_void_p]),
    "llama_backend_init": (None, []),
    "llama_model_default_params": (_ModelParams, []),
    "llama_context_default_params": (_ContextParams, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, _ModelParams]),
    "llama_free_model": (None, [c_void_p]),
    "llama_init_from_model": (c_void_p, [c_void_p, _ContextParams]),
    "llama_free": (None, [c_void_p]),
    "llama_n_vocab": (c_int32, [c_void_p]),
    "llama_set_n_threads": (None, [c_void_p, c_uint32, c_uint32]),
    "llama_decode": (c_int32, [c_void_p, _Batch]),
    "llama_get_logits_ith": (POINTER(c_float), [c_void_p, c_int32]),
    "llama_kv_cache_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_kv_cache_seq_cp": (None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_kv_cache_view_init": (_View, [c_void_p, c_int32]),
    "llama_kv_cache_view_update": (None, [c_void_p, c_void_p]),
    "llama_kv_cache_view_free": (None, [c_void_p]),
    "llama_kv_cache_defrag": (None, [c_void_p]),
    "llama_kv_cache_update": (c_int32, [c_void_p]),
    "llama_get_kv_cache_used_cells": (c_int32, [c_void_p]),
    "llama_state_get_size": (c_size_t, [c_void_p]),
    "llama_state_get_data": (c_size_t, [c_void_p, c_void_p, c_size_t]),
    "llama_state_set_data": (c_size_t, [c_void_p, c_void_p, c_size_t]),
    "ggml_quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
}


def available() -> bool:
    """Whether the package with the library is installed; loads nothing."""
    return importlib.util.find_spec(PACKAGE) is not None


@functools.cache
def load() -> Any:
    """The library, its log kept quiet. Raises ModelError where the package is missing or its library does not load."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"llama.cpp is not installed; install it with: {INSTALL}")
    version = _version()
    if version != VERSION:
        raise ModelError(f"{DISTRIBUTION} {version} is installed; this release runs {VERSION}: {INSTALL}")
    folder = Path(next(iter(found.submodule_search_locations))) / "lib"
    names = _NAMES.get(sys.platform, ("libllama.so", "libggml.so"))
    try:
        libraries = [ctypes.CDLL(str(folder / name)) for name in reversed(names)][::-1]
        for name, (result, arguments) in _FUNCTIONS.items():
            # Some systems look a name up in the libraries behind the first one as well, Windows does not.
            owner = next((one for one in libraries if hasattr(one, name)), libraries[0])
            function = getattr(owner, name)
            function.restype, function.argtypes = result, arguments
            setattr(libraries[0], name, function)
    except (OSError, AttributeError) as error:
        raise ModelError(f"the library of {PACKAGE} cannot be used ({error}); reinstall it: {INSTALL}") from error
    libraries[0].llama_log_set(_log, None)
    libraries[0].llama_backend_init()
    return libraries[0]


def _version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


_said: deque[str] = deque(maxlen=4)


@_LOG
def _log(level: int, text: bytes | None, _data: Any) -> None:
    if level in _ERROR_LEVELS and text is not None:
        _said.append(text.decode("utf-8", "replace"))


def _why() -> str:
    """The last lines of the log that tell of errors."""
    said = " ".join("".join(_said).split())
    _said.clear()
    return f" ({said})" if said else ""


class LlamaModel:
    """Weights of a GGUF file, mapped. Raises ModelError where the library refuses it."""

    def __init__(self, path: Path) -> None:
        self._library = load()
        params = self._library.llama_model_default_params()
        params.n_gpu_layers = 0
        _said.clear()
        self.pointer = self._library.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise ModelError(f"llama.cpp cannot load {path.name}{_why()}; write the file again")
        self._end = weakref.finalize(self, self._library.llama_free_model, self.pointer)
        self.rows = int(self._library.llama_n_vocab(self.pointer))


class LlamaSequences:
    """Sequences 0 .. `slots`-1 that share one cache of keys and values, in float16.

    The fused attention of this build is off: it ends the process (an assertion, S > 0) where the cells that one of its
    threads looks at are all another sequence's. Without it, values cannot be float32.

    Args:
        model: their weights.
        cells: positions of all sequences together; those that a fork has in common count once.
        slots: most sequences.
        batch: most ids of one `decode`.
        threads: of the library's own.
    """

    def __init__(self, model: LlamaModel, *, cells: int, slots: int, batch: int, threads: int) -> None:
        self._library, self._model, self.batch, self.cells = load(), model, batch, cells
        self._slots, self._holes = slots, False
        params = self._library.llama_context_default_params()
        params.n_ctx, params.n_seq_max = cells, slots
        params.n_batch = params.n_ubatch = batch
        params.flash_attn = False
        params.n_threads = params.n_threads_batch = self._threads = threads
        _said.clear()
        self._pointer = self._library.llama_init_from_model(model.pointer, params)
        if not self._pointer:
            raise ModelError(f"llama.cpp has no room for {cells} positions{_why()}; close other programs")
        self._end = weakref.finalize(self, self._library.llama_free, self._pointer)

    def decode(
        self, ids: NDArray[np.int32], positions: NDArray[np.int32], slots: NDArray[np.int32], wanted: NDArray[np.int8]
    ) -> int:
        """Append ids, each (T,): at which position, to which sequence, and whether its logits are wanted.

        Returns 0, or `CACHE_FULL` where nothing was done for want of room. Raises ModelError for any other failure.
        """
        ones = np.ones(len(ids), np.int32)
        places = slots.ctypes.data + slots.itemsize * np.arange(len(ids), dtype=np.uintp)
        batch = _Batch(
            n_tokens=len(ids),
            token=ids.ctypes.data,
            pos=positions.ctypes.data,
            n_seq_id=ones.ctypes.data,
            seq_id=places.ctypes.data,
            logits=wanted.ctypes.data,
        )
        _said.clear()
        self._close_gaps()
        code = int(self._library.llama_decode(self._pointer, batch))
        if code not in (0, CACHE_FULL):
            raise ModelError(f"llama.cpp failed with code {code}{_why()}")
        return code

    def _close_gaps(self) -> None:
        """Move cells together where sequences were removed.

        This build finds the end of the cache by looking at one cell in 32, so what lies behind a gap may go unseen and
        logits would be wrong. A call moves so many runs of cells and no more; it is repeated until no gap is left.
        """
        if not self._holes:
            return
        view = self._library.llama_kv_cache_view_init(self._pointer, 1)
        try:
            for _ in range(_ROUNDS):
                self._library.llama_kv_cache_view_update(self._pointer, ctypes.byref(view))
                if view.max_contiguous == view.n_cells - view.used_cells:
                    self._holes = False
                    return
                self._library.llama_kv_cache_defrag(self._pointer)
                self._library.llama_kv_cache_update(self._pointer)
        finally:
            self._library.llama_kv_cache_view_free(ctypes.byref(view))
        raise ModelError(f"llama.cpp cannot put its cache in order{_why()}; start again with fewer sequences")

    def logits(self, place: int) -> NDArray[np.float32]:
        """Logits (rows,) of the id at this place of the last `decode`; valid until the next one."""
        pointer = self._library.llama_get_logits_ith(self._pointer, place)
        if not pointer:
            raise ModelError(f"llama.cpp gave no logits{_why()}")
        found: NDArray[np.float32] = np.ctypeslib.as_array(pointer, (self._model.rows,))
        return found

    def copy(self, source: int, target: int) -> None:
        """Give `target`, which is empty, all that `source` has; the cells are shared."""
        self._library.llama_kv_cache_seq_cp(self._pointer, source, target, -1, -1)

    def remove(self, slot: int, position: int | None = None) -> None:
        """Empty a sequence, or one position of it."""
        low, high = (-1, -1) if position is None else (position, position + 1)
        self._library.llama_kv_cache_seq_rm(self._pointer, slot, low, high)
        self._holes = True

    @property
    def used(self) -> int:
        """Cells that are taken."""
        return int(self._library.llama_get_kv_cache_used_cells(self._pointer))

    def moved(self, cells: int) -> LlamaSequences:
        """The same sequences in a cache of more cells; this one may then be let go. Raises ModelError."""
        larger = LlamaSequences(
            self._model,
            cells=cells,
            slots=self._slots,
            batch=self.batch,
            threads=self._threads,
        )
        larger._holes = True
        state = np.empty(self._library.llama_state_get_size(self._pointer), np.uint8)
        size = self._library.llama_state_get_data(self._pointer, state.ctypes.data, state.nbytes)
        if not size or not self._library.llama_state_set_data(larger._pointer, state.ctypes.data, size):
            raise ModelError(f"llama.cpp cannot move its cache{_why()}")
        return larger

    def use_threads(self, count: int) -> None:
        """Compute with so many threads from now on."""
        if count != self._threads:
            self._library.llama_set_n_threads(self._pointer, count, count)
            self._threads = count


def quantize_rows(kind: int, rows: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """float32 (rows, width) -> (rows, size) bytes in the type that ggml numbers `kind`.

    Raises ModelError where the library is missing or packs a row into another number of bytes than `size`.
    """
    library = load()
    rows = np.ascontiguousarray(rows, np.float32)
    packed = np.empty((len(rows), size), np.uint8)
    done = library.ggml_quantize_chunk(kind, rows.ctypes.data, packed.ctypes.data, 0, len(rows), rows.shape[1], None)
    if done != packed.nbytes:
        raise ModelError(f"llama.cpp packed {done} bytes where {packed.nbytes} were expected")
    return packed
