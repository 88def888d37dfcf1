"""OpenVINO against the torch model on nano: the same logits in float32, near ones quantized, slots of any length."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sequences
from opentar.checkpoints.convert.quantizing import quantize_model
from opentar.checkpoints.find import find_model
from opentar.core.errors import ModelError, PromptError, WeightsError
from opentar.core.folder import MANIFEST, atomic_folder
from opentar.engine.backends import openvino_backend
from opentar.engine.backends.openvino_backend import OpenVINOBackend
from opentar.engine.backends.torch_backend import TorchBackend
from opentar.engine.engine import Engine
from opentar.engine.events import CodeDrawn
from opentar.engine.request import Codes, Request, Sampling
from opentar.language.folder import Language, load_language
from opentar.language.openvino_model import OpenVINOLanguage, load_openvino
from opentar.nn import openvino_library
from random_steps import random_steps

pytestmark = pytest.mark.skipif(not openvino_library.available(), reason="pip install 'opentar[openvino]'")

QUANTIZED = {"openvino-int8": 0.25, "openvino-int4": 0.25}
"""Largest difference to the torch backend on the same weights, of logits whose standard deviation is 2: both round what
they multiply weights with to 8 bits, in groups of another size."""


@pytest.fixture(scope="module")
def whole_model(language: Language) -> OpenVINOLanguage:
    return load_openvino(find_model("nano") / "language", torch.float32)


@pytest.fixture
def backend(whole_model: OpenVINOLanguage) -> OpenVINOBackend:
    return OpenVINOBackend(whole_model)


@pytest.fixture(scope="module", params=QUANTIZED)
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("models") / "q"
    quantize_model(find_model("nano"), out, request.param)
    return request.param, out


@torch.no_grad()
def whole(language: Language, ids: Sequence[int]) -> Tensor:
    """Logits (rows,) of the next id, in one pass without a cache."""
    return language.model.logits(language.model.hidden(torch.tensor([list(ids)])))[0, -1]


def every(language: Language) -> range:
    return range(language.model.config.table_rows)


def near(found: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


def pieces(language: Language) -> list[list[int]]:
    """Three sequences of different lengths, one with a picture in it."""
    builder, vocab = language.builder, language.model.vocab
    picture = [place * 29 % vocab.codebook_size for place in range(144)]
    return [
        sequences.draw(builder, "three red apples", vocab.scale(2)),
        sequences.read(builder, [picture], "What is there?"),
        [7],
    ]


def drawn(backend: OpenVINOBackend | TorchBackend, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Greedy codes of each prompt."""
    vocab = backend.config.vocab
    slots = backend.open(len(prompts))
    following, found = [list(prompt) for prompt in prompts], [[] for _ in prompts]  # type: ignore[var-annotated]
    for _ in range(count):
        backend.extend(slots, following)
        best = backend.logits(slots, range(vocab.first_code, vocab.size)).argmax(-1) + vocab.first_code
        following = best[:, None].tolist()
        for row, token in zip(found, best.tolist(), strict=True):
            row.append(token)
    backend.close(slots)
    return found


def test_slots_together_are_what_transformers_says_of_each(backend: OpenVINOBackend, language: Language) -> None:
    said = pieces(language)
    slots = backend.open(3)
    backend.extend(slots, said)
    for step in range(4):
        near(backend.logits(slots, every(language)), torch.stack([whole(language, ids) for ids in said]))
        backend.extend(slots, [[step * 31 + row] for row in range(3)])
        said = [[*ids, step * 31 + row] for row, ids in enumerate(said)]
    # Pieces of mixed length, in an order of their own; ids that begin and end within parts of the head.
    backend.extend([slots[2], slots[0]], [[3, 4, 5, 6], [8]])
    ids = range(5, language.model.vocab.first_code + 9)
    expected = torch.stack([whole(language, [*said[0], 8]), whole(language, [*said[2], 3, 4, 5, 6])])
    near(backend.logits([slots[0], slots[2]], ids), expected[:, ids.start : ids.stop])
    near(backend.logits([slots[1]], every(language))[0], whole(language, said[1]))


def test_greedy_drawings_are_those_of_torch(backend: OpenVINOBackend, language: Language) -> None:
    scale = language.model.vocab.scale(2)
    texts = ("a red apple", "two blue cars", "three green fish on a white background", "a yellow star")
    prompts = [sequences.draw(language.builder, text, scale) for text in texts]
    expected = drawn(TorchBackend(language.model), prompts, scale.length)
    assert drawn(backend, prompts, scale.length) == expected
    assert drawn(backend, prompts[2:3], scale.length) == expected[2:3], "alone"


def test_forks_go_apart_and_slots_are_used_again(backend: OpenVINOBackend, language: Language) -> None:
    ids = pieces(language)[1]
    (first,) = backend.open(1)
    backend.extend([first], [ids])
    other, third = backend.fork(first), backend.fork(first)
    near(backend.logits([other], every(language))[0], whole(language, ids))
    backend.extend([first, other], [[11], [12, 13]])
    ends = ([11], [12, 13], [])
    expected = torch.stack([whole(language, [*ids, *end]) for end in ends])
    near(backend.logits([first, other, third], every(language)), expected)
    backend.close([first])
    (again,) = backend.open(1)
    assert again == first
    backend.extend([again, third], [[4, 2], [5]])
    expected = torch.stack([whole(language, [4, 2]), whole(language, [*ids, 5]), whole(language, [*ids, 12, 13])])
    near(backend.logits([again, third, other], every(language)), expected)
    backend.close([again, other, other, third])


def test_blocks_come_back_and_the_cache_grows(
    backend: OpenVINOBackend, language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_backend, "FIRST_BLOCKS", 2)
    said = pieces(language)[1]
    for _ in range(3):
        slots = backend.open(2)
        backend.extend(slots, [said, [9]])
        fork = backend.fork(slots[0])
        backend.extend([fork], [[1]])
        near(backend.logits([fork], every(language))[0], whole(language, [*said, 1]))
        backend.close([*slots, fork])
    assert backend._room < 2 * (len(said) // 32 + 4), "what was closed is used again"


def test_long_prompts_go_in_several_passes(
    backend: OpenVINOBackend, language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_backend, "PASS_IDS", 50)
    said = [[place % 900 for place in range(length)] for length in (120, 3, 49, 50, 1)]
    slots = backend.open(len(said))
    backend.extend(slots, said)
    near(backend.logits(slots, every(language)), torch.stack([whole(language, ids) for ids in said]))


def test_many_random_steps(backend: OpenVINOBackend, language: Language) -> None:
    for slot, said in random_steps(backend):
        near(backend.logits([slot], every(language))[0], whole(language, said))


def test_what_does_not_fit_is_refused_before_anything_changes(
    backend: OpenVINOBackend, language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = language.model.config.max_length
    (slot,) = backend.open(1)
    backend.extend([slot], [[5, 6]])
    with pytest.raises(ModelError, match=f"{most + 1} positions were asked for; this model has {most}"):
        backend.extend([slot], [[1] * (most - 1)])
    for wrong in (-1, language.model.config.table_rows):
        with pytest.raises(PromptError, match=f"an id is outside 0 to {language.model.config.table_rows - 1}"):
            backend.extend([slot], [[wrong]])
    with pytest.raises(PromptError, match="no prompt was given, or an empty one"):
        backend.extend([slot], [[]])
    monkeypatch.setattr(openvino_backend, "available_bytes", lambda: 1000)
    others = backend.open(10)
    with pytest.raises(ModelError, match=r"positions of all sequences together need .* of memory and 1 kB are"):
        backend.extend(others, [[1] * 400] * 10)
    backend.extend([slot], [[7]])
    near(backend.logits([slot], every(language))[0], whole(language, [5, 6, 7]))


def test_a_request_that_is_cancelled_leaves_the_others_alone(backend: OpenVINOBackend, language: Language) -> None:
    builder, scale = language.builder, language.model.vocab.scale(2)
    requests = [
        Request(turns=builder.drawing(text), grammar=Codes(scale=scale), sampling=Sampling(temperature=0), seed=seed)
        for seed, text in enumerate(("a red apple", "a blue car"))
    ]
    alone = Engine(backend, builder).results(requests[1:])[0].ids
    engine = Engine(backend, builder)
    first, second = (engine.submit(request) for request in requests)
    events = list(engine.step())
    engine.cancel(first)
    while not engine.idle:
        events += engine.step()
    assert [event.code for event in events if isinstance(event, CodeDrawn) and event.ticket == second] == list(alone)
    assert sum(isinstance(event, CodeDrawn) and event.ticket == first for event in events) <= 1
    assert backend.open(1) == [0], "every slot came back"


def test_quantized_folders_are_near_the_torch_backend(quantized: tuple[str, Path], language: Language) -> None:
    to, folder = quantized
    ours = OpenVINOBackend(load_openvino(folder / "language", "packed"))
    theirs = TorchBackend(load_language(folder / "language", "packed").model)
    said, found = pieces(language), []
    for backend in (ours, theirs):
        slots = backend.open(3)
        backend.extend(slots, said)
        backend.extend(slots, [[3], [4], [5]])
        found.append(backend.logits(slots, every(language)))
    near(found[0], found[1], QUANTIZED[to])
    assert not torch.equal(found[0][0], whole(language, [*said[0], 3])), "these weights were rounded"


def test_a_tensor_that_is_missing_is_named(quantized: tuple[str, Path], tmp_path: Path) -> None:
    source, name = quantized[1] / "language", "model.layers.0.mlp.down_proj.weight"
    with atomic_folder(tmp_path / "language") as folder:
        for file in source.iterdir():
            if file.name != MANIFEST:
                shutil.copyfile(file, folder / file.name)
        state = load_file(source / "model.safetensors")
        del state[f"{name}::scale"]
        save_file(state, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"lacks {name}::scale, which its config names as int"):
        load_openvino(tmp_path / "language", "packed")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no alarm")
def test_signals_are_handled_after_a_model_was_let_go() -> None:
    program = (
        "import gc, select, signal\n"
        "from opentar import Tar\n"
        "tar = Tar.from_pretrained('nano', engine='openvino', device='cpu')\n"
        "tar.generate('a red apple', scale=2, steps=1)\n"
        "del tar\n"
        "gc.collect()\n"
        "signal.signal(signal.SIGALRM, lambda *given: print('heard', flush=True))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "select.poll().poll(200)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr[-2000:]
