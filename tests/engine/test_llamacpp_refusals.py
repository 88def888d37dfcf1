"""Folders and files that llama.cpp must not be given, and what it needs: told before the library sees anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from opentar.checkpoints.convert.quantizing import quantize_model
from opentar.checkpoints.find import find_model
from opentar.core.errors import ModelError, WeightsError
from opentar.core.folder import CONFIG, atomic_folder
from opentar.engine.backends import llamacpp
from opentar.engine.backends.llamacpp import LlamaCppBackend, open_llamacpp
from opentar.language.folder import Language
from opentar.nn import llama_library

pytestmark = pytest.mark.skipif(not llamacpp.available(), reason="pip install 'opentar[llamacpp]'")
pytest.importorskip("gguf", reason="pip install 'opentar[llamacpp]'")


def test_folders_that_cannot_run_are_told(tmp_path: Path, files: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.gguf, .*opentar quantize MODEL --to gguf-q4_k_m -o OUT"):
        open_llamacpp(find_model("nano") / "language")
    quantize_model(find_model("nano"), tmp_path / "q", "gguf-q8_0")
    part = tmp_path / "q" / "language"
    (part / "model.gguf").rename(part / "other.gguf")
    with pytest.raises(WeightsError, match=r"model\.gguf.* is missing"):
        open_llamacpp(part)
    (part / "model.gguf").write_bytes((part / "other.gguf").read_bytes()[:-100])
    with pytest.raises(WeightsError, match="bytes instead of"):
        open_llamacpp(part)
    shutil.copyfile(files["f16"], part / "model.gguf")
    with pytest.raises(WeightsError, match="bytes instead of"):
        open_llamacpp(part)


def rewritten(part: Path, out: Path, content: bytes) -> Path:
    """A language folder with another GGUF file and a manifest that names it: what a stranger may give."""
    with atomic_folder(out) as stage:
        for name in (CONFIG, "tokenizer.json"):
            shutil.copyfile(part / name, stage / name)
        (stage / "model.gguf").write_bytes(content)
    return out


def test_files_of_strangers_never_reach_the_library(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_model(find_model("nano"), tmp_path / "q", "gguf-f16")
    part = tmp_path / "q" / "language"
    good = files["f16"].read_bytes()

    def edited(old: bytes, new: bytes) -> bytes:
        assert good.count(old) >= 1 and len(old) == len(new)
        return good.replace(old, new, 1)

    monkeypatch.setattr(llamacpp, "LlamaModel", lambda _: pytest.fail("it was loaded"))
    cases = {
        "magic": (b"FUGG" + good[4:], "is no GGUF file"),
        "cut": (good[: len(good) // 2], "is cut short"),
        "architecture": (edited(b"qwen2", b"llama"), "holds a model of the kind 'llama'; only qwen2 is run"),
        "plain": (edited(b"opentar.first_code", b"opentar.first_none"), "says nothing of image codes"),
        "format": (edited(b"opentar.format\x04\0\0\0\1", b"opentar.format\x04\0\0\0\2"), "opentar.format '2' where 1"),
        "model": (
            edited(b"opentar.model_hash\x08\0\0\0\x0c", b"opentar.model_hesh\x08\0\0\0\x0c"),
            "made of the model",
        ),
        "alphabet": (
            edited(b"opentar.first_code\x04\0\0\0\x05", b"opentar.first_code\x04\0\0\0\x06"),
            "opentar.first_code is '2054' instead of 2053",
        ),
        "tensor": (edited(b"blk.3.attn_q.weight", b"blk.7.attn_q.weight"), "tensor 'blk.3.attn_q.weight' is missing"),
    }
    for name, (content, told) in cases.items():
        with pytest.raises(WeightsError) as caught:
            open_llamacpp(rewritten(part, tmp_path / name, content))
        assert told in str(caught.value), name


def test_a_missing_or_other_package_names_the_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    llama_library.load.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda _: None)
        assert not llamacpp.available()
        with pytest.raises(ModelError, match=r"not installed; install it with: pip install 'opentar\[llamacpp\]'"):
            open_llamacpp(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda _: "0.9.9")
        with pytest.raises(ModelError, match=r"0\.9\.9 is installed; this release runs 0\.1\.5: pip install 'opentar"):
            open_llamacpp(tmp_path)
    llama_library.load()


def test_memory_is_asked_for_first(files: dict[str, Path], language: Language, monkeypatch) -> None:
    monkeypatch.setattr("opentar.core.memory.available_bytes", lambda: 1000)
    with pytest.raises(ModelError, match=r"running .* needs .* of memory and 1 kB are available"):
        LlamaCppBackend(files["f32"], language.model.config)


def test_nothing_is_printed_and_nothing_heavy_is_imported(files: dict[str, Path], tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from opentar.nn import llama_library\n"
        "assert llama_library.available() and 'torch' not in sys.modules\n"
        "from opentar.engine.backends.llamacpp import LlamaCppBackend\n"
        "assert 'ik_llama_cpp' not in sys.modules\n"
        "from opentar.checkpoints.find import find_model; from opentar.language.folder import language_config\n"
        "config = language_config(find_model('nano') / 'language')\n"
        "backend = LlamaCppBackend(Path(sys.argv[1]), config)\n"
        "slots = backend.open(2); backend.extend(slots, [[1, 2, 3], [4]]); backend.close(slots)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(files["f16"])], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
