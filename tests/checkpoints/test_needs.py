"""What a task needs is said before a weight is loaded, and what would fit is named."""

import json
import shutil

import pytest

from opentar import Tar
from opentar.checkpoints import needs
from opentar.checkpoints.convert.quantizing import TARGETS, quantize_model
from opentar.checkpoints.find import find_model
from opentar.checkpoints.needs import Needs, check_room, modes, needs_of
from opentar.core.errors import ConfigError, ModelError, WeightsError
from opentar.core.folder import CONFIG

NANO = find_model("nano")
TYPES = {"ta_tok": "stored", "language": "stored", "detok_diffusion": "stored"}


def test_weights_count_in_the_type_they_run_in():
    kinds = ("stored", "float32", "bfloat16")
    stored, wide, half = (needs_of(NANO, {"language": kind}).weights["language"] for kind in kinds)
    # int8 that no product takes as it is runs in float32.
    assert stored == pytest.approx(wide, rel=0.01)
    assert wide == 2 * half


def test_keys_and_values_grow_with_the_rows():
    one, eight = (needs_of(NANO, TYPES, rows=rows) for rows in (1, 8))
    assert eight.cache == 8 * one.cache > 0
    assert eight.total - one.total == 7 * one.cache


@pytest.mark.parametrize("target", ["int8", "int4"])
def test_what_a_copy_will_take_is_what_the_copy_takes(target, tmp_path):
    quantize_model(NANO, tmp_path / target, target)
    types = dict.fromkeys(("ta_tok", "language", "detok_ar"), "packed")
    before = needs_of(NANO, dict.fromkeys(types, "stored"), target=target).weights
    after = needs_of(tmp_path / target, types).weights
    for part in types:
        assert before[part] == pytest.approx(after[part], rel=0.15), part
    assert modes(tmp_path / target, types) == {}


def test_every_mode_is_a_target_and_the_smallest_comes_first():
    found = modes(NANO, TYPES)
    assert set(found) <= set(TARGETS)
    assert list(found.values()) == sorted(found.values())


def test_what_does_not_fit_names_what_would(monkeypatch):
    full, small = needs_of(NANO, TYPES).total, next(iter(modes(NANO, TYPES).items()))
    monkeypatch.setattr(needs, "available_bytes", lambda: full - 1)
    with pytest.raises(
        ModelError, match=rf"this needs .* of memory \(ta_tok .*language .* available; .*--to {small[0]}"
    ):
        check_room(NANO, TYPES)
    monkeypatch.setattr(needs, "available_bytes", lambda: small[1] - 1)
    with pytest.raises(ModelError, match="use a larger machine: even a copy"):
        check_room(NANO, TYPES)
    monkeypatch.setattr(needs, "available_bytes", lambda: full)
    check_room(NANO, TYPES)


def test_what_is_loaded_already_is_not_asked_for_again(monkeypatch):
    whole = needs_of(NANO, TYPES)
    monkeypatch.setattr(needs, "available_bytes", lambda: whole.total - whole.weights["language"])
    check_room(NANO, TYPES, loaded=["language"])
    with pytest.raises(ModelError):
        check_room(NANO, TYPES)
    monkeypatch.setattr(needs, "available_bytes", lambda: 0)
    check_room(NANO, TYPES, loaded=list(TYPES))


def test_a_system_that_says_nothing_refuses_nothing(monkeypatch):
    monkeypatch.setattr(needs, "available_bytes", lambda: None)
    check_room(NANO, TYPES)


@pytest.mark.parametrize("work", ["generate", "ask", "reconstruct", "encode"])
def test_a_task_is_refused_before_any_weight_is_loaded(work, monkeypatch):
    from PIL import Image

    tar, picture = Tar.from_pretrained("nano"), Image.new("RGB", (8, 8))
    monkeypatch.setattr(needs, "available_bytes", lambda: 1_000_000)
    calls = {
        "generate": lambda: tar.generate("a red apple"),
        "ask": lambda: tar.ask(picture, "how many apples?"),
        "reconstruct": lambda: tar.reconstruct(picture),
        "encode": lambda: tar.encode(picture),
    }
    with pytest.raises(ModelError, match=r"and 1\.0 MB are available"):
        calls[work]()
    assert not {"ta_tok", "language"} & set(vars(tar.parts))


def test_needs_add_up():
    assert Needs({"a": 1, "b": 2}, 3, 4).total == 10


def test_a_config_with_wrong_sizes_is_refused_as_it_is_when_loaded(tmp_path):
    shutil.copytree(NANO, tmp_path / "model")
    path = tmp_path / "model" / "language" / CONFIG
    told = json.loads(path.read_text())
    told["opentar"]["language"]["layers"] = None
    path.write_text(json.dumps(told))
    with pytest.raises((ConfigError, WeightsError), match="layers"):
        needs_of(tmp_path / "model", {"language": "stored"})
