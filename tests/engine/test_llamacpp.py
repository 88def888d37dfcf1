"""llama.cpp against the torch model on nano: the same logits within float16's rounding, the same greedy drawings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

import sequences
from opentar.checkpoints.convert.quantizing import quantize_model
from opentar.checkpoints.find import find_model
from opentar.core.errors import ModelError, PromptError
from opentar.engine.backends import llamacpp
from opentar.engine.backends.llamacpp import LlamaCppBackend, open_llamacpp
from opentar.language.folder import Language
from opentar.nn import llama_library
from random_steps import random_steps

pytestmark = pytest.mark.skipif(not llamacpp.available(), reason="pip install 'opentar[llamacpp]'")
pytest.importorskip("gguf", reason="pip install 'opentar[llamacpp]'")

TOLERANCES = {"f32": 0.006, "f16": 0.02}
"""Of logits, whose standard deviation is 1.7. Keys and values are float16 in both, activations in the second, too."""
PROMPTS = tuple(
    f"{count} {colour} {thing}"
    for count, colour, thing in zip(
        ("one", "two", "three", "four", "a") * 4,
        ("red", "blue", "green", "yellow") * 5,
        ("apple", "dogs", "cars", "cats", "house", "tree", "fish", "birds", "star", "cups") * 2,
        strict=True,
    )
)


@pytest.fixture
def backend(files: dict[str, Path], language: Language) -> LlamaCppBackend:
    return LlamaCppBackend(files["f32"], language.model.config)


def theirs(language: Language) -> Qwen2ForCausalLM:
    """The same weights in transformers' own model."""
    model = Qwen2ForCausalLM(language.model.config.qwen())
    model.load_state_dict(language.model.qwen.state_dict())
    return model.eval()


@torch.no_grad()
def whole(language: Language, ids: Sequence[int]) -> Tensor:
    """Logits (rows,) of the next id, by transformers in one pass without a cache."""
    logits: Tensor = theirs(language)(torch.tensor([list(ids)])).logits[0, -1]
    return logits


def every(language: Language) -> range:
    return range(language.model.config.table_rows)


def near(found: Tensor, wanted: Tensor, tolerance: float = TOLERANCES["f32"]) -> None:
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


@pytest.mark.parametrize("to", TOLERANCES)
def test_logits_are_those_of_torch(files: dict[str, Path], language: Language, to: str) -> None:
    backend = LlamaCppBackend(files[to], language.model.config)
    for ids in pieces(language):
        (slot,) = backend.open(1)
        backend.extend([slot], [ids])
        near(backend.logits([slot], every(language))[0], whole(language, ids), TOLERANCES[to])
    codes = range(language.model.vocab.first_code, language.model.vocab.size)
    near(backend.logits([0], codes)[0], whole(language, pieces(language)[0])[codes.start :], TOLERANCES[to])


@torch.no_grad()
def drawn_by_torch(language: Language, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    vocab, found, model = language.model.vocab, [], theirs(language)
    for prompt in prompts:
        ids, cache = torch.tensor([list(prompt)]), None
        said: list[int] = []
        for _ in range(count):
            output = model(ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            said.append(int(output.logits[0, -1, vocab.first_code : vocab.size].argmax()) + vocab.first_code)
            ids = torch.tensor([[said[-1]]])
        found.append(said)
    return found


def drawn(backend: LlamaCppBackend, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    vocab = backend.config.vocab
    slots = backend.open(len(prompts))
    backend.extend(slots, prompts)
    found: list[list[int]] = [[] for _ in prompts]
    for step in range(count):
        best = backend.logits(slots, range(vocab.first_code, vocab.size)).argmax(-1) + vocab.first_code
        for row, token in zip(found, best.tolist(), strict=True):
            row.append(token)
        if step + 1 < count:
            backend.extend(slots, [[row[-1]] for row in found])
    backend.close(slots)
    return found


@pytest.mark.parametrize("to", TOLERANCES)
def test_twenty_greedy_drawings_are_the_same(files: dict[str, Path], language: Language, to: str) -> None:
    scale = language.model.vocab.scale(1)
    prompts = [sequences.draw(language.builder, text, scale) for text in PROMPTS]
    assert len(prompts) == 20
    expected = drawn_by_torch(language, prompts, scale.length)
    backend = LlamaCppBackend(files[to], language.model.config)
    assert drawn(backend, prompts, scale.length) == expected
    assert drawn(backend, prompts[3:4], scale.length) == expected[3:4]


def test_slots_together_are_what_they_are_alone(backend: LlamaCppBackend, language: Language) -> None:
    said = pieces(language)
    slots = backend.open(3)
    backend.extend(slots, said)
    for step in range(4):
        for row, ids in enumerate(said):
            near(backend.logits([slots[row]], every(language))[0], whole(language, ids))
        backend.extend(slots, [[step * 31 + row] for row in range(3)])
        said = [[*ids, step * 31 + row] for row, ids in enumerate(said)]
    # Pieces of mixed length, in an order of their own.
    backend.extend([slots[2], slots[0]], [[3, 4, 5, 6], [8]])
    near(
        backend.logits([slots[0], slots[2]], range(5, 99)),
        torch.stack([whole(language, [*said[0], 8]), whole(language, [*said[2], 3, 4, 5, 6])])[:, 5:99],
    )
    near(backend.logits([slots[1]], every(language))[0], whole(language, said[1]))


def test_forks_go_apart_and_slots_are_used_again(backend: LlamaCppBackend, language: Language) -> None:
    ids = pieces(language)[1]
    (first,) = backend.open(1)
    backend.extend([first], [ids])
    other = backend.fork(first)
    near(backend.logits([other], every(language))[0], whole(language, ids))
    backend.extend([first, other], [[11], [12]])
    near(
        backend.logits([first, other], every(language)),
        torch.stack([whole(language, [*ids, end]) for end in (11, 12)]),
    )
    backend.close([first])
    (again,) = backend.open(1)
    assert again == first
    backend.extend([again], [[4, 2]])
    near(backend.logits([again], every(language))[0], whole(language, [4, 2]))
    near(backend.logits([other], every(language))[0], whole(language, [*ids, 12]))
    backend.close([again, other, other])


def test_the_cache_grows_and_keeps_what_it_holds(
    files: dict[str, Path], language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp, "FIRST_CELLS", 256)
    backend = LlamaCppBackend(files["f32"], language.model.config)
    said = pieces(language)
    slots = backend.open(3)
    backend.extend(slots, said)
    fork = backend.fork(slots[1])
    more = backend.open(6)
    backend.extend(more, [[place + 1] * 100 for place in range(6)])
    for slot, ids in (*zip(slots, said, strict=True), (fork, said[1]), (more[5], [6] * 100)):
        backend.extend([slot], [[9]])
        near(backend.logits([slot], every(language))[0], whole(language, [*ids, 9]))


def test_what_does_not_fit_is_refused_before_anything_changes(
    backend: LlamaCppBackend, language: Language, monkeypatch: pytest.MonkeyPatch
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
    monkeypatch.setattr("opentar.engine.backends.llamacpp.available_bytes", lambda: 1000)
    others = backend.open(10)
    with pytest.raises(ModelError, match=r"positions of all sequences together need .* of memory and 1 kB are"):
        backend.extend(others, [[1] * 400] * 10)
    backend.extend([slot], [[7]])
    near(backend.logits([slot], every(language))[0], whole(language, [5, 6, 7]))
    with pytest.raises(ModelError, match="118 more sequences were asked for; 128 is the most at a time"):
        backend.open(118)
    assert len(backend.open(117)) == 117


def test_gaps_between_cells_are_filled(
    files: dict[str, Path], language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp, "FIRST_CELLS", 512)
    monkeypatch.setattr("opentar.engine.backends.llamacpp.available_bytes", lambda: 1000)
    backend = LlamaCppBackend.__new__(LlamaCppBackend)
    with monkeypatch.context() as patch:
        patch.setattr("opentar.core.memory.available_bytes", lambda: None)
        backend.__init__(files["f32"], language.model.config)  # type: ignore[misc]
    slots = backend.open(16)
    backend.extend(slots, [[place + 3] * 32 for place in range(16)])
    backend.close(slots[::2])
    (long,) = backend.open(1)
    # 256 cells are free, 32 beside one another at most.
    backend.extend([long], [[41] * 200])
    near(backend.logits([long], every(language))[0], whole(language, [41] * 200))
    near(backend.logits([slots[5]], every(language))[0], whole(language, [8] * 32))


def test_many_random_steps(backend: LlamaCppBackend, language: Language) -> None:
    for slot, said in random_steps(backend):
        near(backend.logits([slot], every(language))[0], whole(language, said))


def test_closing_sequences_that_stood_among_others(backend: LlamaCppBackend, language: Language) -> None:
    # Side by side, the cells of sequences alternate: closing some leaves many gaps of one cell each.
    slots = backend.open(6)
    said = [[row + 3] for row in range(6)]
    backend.extend(slots, said)
    for step in range(60):
        added = [[(step * 7 + row) % 2000] for row in range(6)]
        backend.extend(slots, added)
        said = [ids + piece for ids, piece in zip(said, added, strict=True)]
    backend.close(slots[::2])
    backend.extend(slots[1::2], [[9]] * 3)
    for slot, ids in zip(slots[1::2], said[1::2], strict=True):
        near(backend.logits([slot], every(language))[0], whole(language, [*ids, 9]))


def test_gaps_between_positions_are_taken(files: dict[str, Path], language: Language) -> None:
    """What rows decoded side by side would need; mainline llama.cpp refuses it."""
    sequences = llama_library.LlamaSequences(
        llama_library.LlamaModel(files["f32"]), cells=256, slots=2, batch=64, threads=1
    )
    ids, positions = [5, 6, 7, 8], [0, 1, 2, 9]
    arrays = (np.array(values, np.int32) for values in (ids, positions, [0] * 4))
    assert sequences.decode(*arrays, np.array([0, 0, 0, 1], np.int8)) == 0
    with torch.no_grad():
        wanted = theirs(language)(torch.tensor([ids]), position_ids=torch.tensor([positions])).logits[0, -1]
    near(torch.from_numpy(sequences.logits(3).copy()), wanted)


def test_nan_becomes_our_error(backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    (slot,) = backend.open(1)
    own = llama_library.LlamaSequences.logits
    monkeypatch.setattr(llama_library.LlamaSequences, "logits", lambda self, place: own(self, place) * float("nan"))
    with pytest.raises(ModelError, match="computed NaN or infinity"):
        backend.extend([slot], [[1, 2]])


def test_a_failure_of_the_library_becomes_our_error(backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    (slot,) = backend.open(1)
    monkeypatch.setattr(llama_library.load(), "llama_decode", lambda *_: -3)
    with pytest.raises(ModelError, match=r"llama\.cpp failed with code -3"):
        backend.extend([slot], [[1, 2]])


def test_a_model_folder_runs(tmp_path: Path, language: Language) -> None:
    quantize_model(find_model("nano"), tmp_path / "q", "gguf-f16")
    backend = open_llamacpp(tmp_path / "q" / "language")
    assert (backend.name, backend.config) == ("llamacpp", language.model.config)
    ids = pieces(language)[0]
    slots = backend.open(1)
    backend.extend(slots, [ids])
    near(backend.logits(slots, every(language))[0], whole(language, ids), TOLERANCES["f16"])
