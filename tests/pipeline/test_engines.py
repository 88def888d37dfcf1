"""`Tar` on each engine: what the folder holds runs, and what it does not hold is told with what to do."""

import sys
from pathlib import Path

import pytest

from opentar import Tar
from opentar.checkpoints.convert.quantizing import quantize_model
from opentar.checkpoints.find import find_model
from opentar.core.errors import ConfigError, ModelError
from opentar.engine.backends import choose, llamacpp
from opentar.nn import openvino_library

needs_openvino = pytest.mark.skipif(not openvino_library.available(), reason="pip install 'opentar[openvino]'")
PROMPTS = ["three red apples on a light blue background", "a purple car"]
needs_llamacpp = pytest.mark.skipif(not llamacpp.available(), reason="pip install 'opentar[llamacpp]'")


@pytest.fixture(scope="module")
def in_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf", reason="pip install 'opentar[llamacpp]'")
    out = tmp_path_factory.mktemp("models") / "nano-gguf"
    quantize_model(find_model("nano"), out, "gguf-f16")
    return out


@needs_llamacpp
def test_llamacpp_draws_and_reads_what_torch_does(in_gguf: Path) -> None:
    plain, other = Tar.from_pretrained("nano"), Tar.from_pretrained(in_gguf)
    drawn = [tar.generate(PROMPTS, seed=3, temperature=0, guidance=2.0) for tar in (plain, other)]
    again = other.generate(PROMPTS[1], seed=3, temperature=0, guidance=2.0)[0]
    for ours, theirs in zip(*drawn, strict=True):
        codes = [plain.encode(picture, 0).codes for picture in (ours, theirs)]
        equal = [one == two for rows in zip(*codes, strict=True) for one, two in zip(*rows, strict=True)]
        # Greedy codes of float16 keys; a picture whose codes differ in one place may be read in others, too.
        assert sum(equal) > 0.9 * len(equal)
    assert again.tobytes() == drawn[1][1].tobytes(), "alone and beside another one"
    questions = ["How many apples are there?", "What colour are the apples?", "Is there a dog in the picture?"]
    assert plain.ask(drawn[0][0], questions) == other.ask(drawn[0][0], questions)


@needs_llamacpp
def test_the_model_is_loaded_once(in_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = Tar.from_pretrained(in_gguf, engine="llamacpp")
    first = tar.generate(PROMPTS[1])[0]

    def loaded(*_: object) -> None:
        raise AssertionError("loaded again")

    monkeypatch.setattr(llamacpp, "LlamaModel", loaded)
    assert tar.generate(PROMPTS[1])[0].tobytes() == first.tobytes()
    two = tar.engine(), tar.engine()
    assert two[0].backend.open(2) == two[1].backend.open(2) == [0, 1]
    assert tar.parts.__dict__.get("language") is None, "PyTorch holds no language model beside it"


def test_an_engine_that_cannot_run_the_folder_is_told(in_gguf: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"the engine 'tourch' is unknown; choose torch, llamacpp, openvino\. Did you mean"
    ):
        Tar.from_pretrained("nano", engine="tourch")
    with pytest.raises(ModelError, match="opentar quantize MODEL --to gguf-q4_k_m -o OUT"):
        Tar.from_pretrained("nano", engine="llamacpp")
    with pytest.raises(ModelError, match="a GGUF file, which PyTorch does not run; use llamacpp"):
        Tar.from_pretrained(in_gguf, engine="torch")


def test_without_the_library_the_error_says_what_to_install(in_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = Tar.from_pretrained(in_gguf)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    monkeypatch.setattr("opentar.nn.llama_library.available", lambda: False)
    from opentar.nn import llama_library

    llama_library.load.cache_clear()
    try:
        with pytest.raises(ModelError, match=r"pip install 'opentar\[llamacpp\]'"):
            tar.generate(PROMPTS[1])
    finally:
        llama_library.load.cache_clear()


@pytest.fixture(scope="module")
def for_openvino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "nano-openvino"
    quantize_model(find_model("nano"), out, "openvino-int8")
    return out


@needs_openvino
def test_openvino_draws_and_reads_what_torch_does() -> None:
    plain, other = (Tar.from_pretrained("nano", engine=engine) for engine in ("torch", "openvino"))
    drawn = [tar.generate(PROMPTS, seed=3, temperature=0, guidance=2.0) for tar in (plain, other)]
    for ours, theirs in zip(*drawn, strict=True):
        assert ours.tobytes() == theirs.tobytes(), "greedy codes of the same weights in float32"
    questions = ["How many apples are there?", "What colour are the apples?", "Is there a dog in the picture?"]
    assert plain.ask(drawn[0][0], questions) == other.ask(drawn[0][0], questions)
    assert other.parts.__dict__.get("language") is None, "PyTorch holds no language model beside it"


@needs_openvino
def test_a_folder_made_for_openvino_is_run_by_it(for_openvino: Path) -> None:
    assert Tar.from_pretrained(for_openvino).engine().backend.name == "openvino"
    assert Tar.from_pretrained(for_openvino, engine="torch").engine().backend.name == "torch"


def test_without_openvino_torch_runs_its_folder_and_says_so(
    for_openvino: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "available", lambda: False)
    with pytest.warns(
        UserWarning, match=r"made for OpenVINO, which is not installed.*pip install 'opentar\[openvino\]'"
    ):
        tar = Tar.from_pretrained(for_openvino)
    assert tar.engine().backend.name == "torch"


def test_openvino_that_is_asked_for_and_missing_is_told(in_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="a GGUF file, which OpenVINO does not run; use llamacpp"):
        Tar.from_pretrained(in_gguf, engine="openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        ModelError, match=r"the engine openvino needs OpenVINO; install it with: pip install 'opentar\[op"
    ):
        Tar.from_pretrained("nano", engine="openvino")
