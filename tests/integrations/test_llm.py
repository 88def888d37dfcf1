"""The plug-in for `llm`, with the real package and nano; left out where `llm` is not installed."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

import opentar
from opentar.integrations import llm_plugin

ROOT = Path(__file__).resolve().parents[2]
COLOR = "What color is the car?"


def _entry() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["entry-points"]["llm"]["opentar"]


def test_the_module_can_be_imported_without_llm():
    assert llm_plugin.model_names()[0] == "nano"
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = llm_plugin.other


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    """The package with our plug-in, as the entry point names it."""
    before = os.environ.get("LLM_USER_PATH")
    os.environ["LLM_USER_PATH"] = str(tmp_path_factory.mktemp("llm"))
    package = pytest.importorskip("llm", reason="needs llm: pip install llm")
    from llm.plugins import load_plugins, pm

    load_plugins()
    module, name = _entry().split(":")
    plugin = getattr(importlib.import_module(module), name)
    if not pm.is_registered(plugin):
        pm.register(plugin, name="opentar of the tests")
    yield package
    if before is None:
        del os.environ["LLM_USER_PATH"]
    else:
        os.environ["LLM_USER_PATH"] = before


@pytest.fixture(scope="module")
def model(llm):
    """One object, so that nano is loaded once."""
    return llm.get_model("opentar/nano")


@pytest.fixture(scope="module")
def tar(model):
    return opentar.Tar.from_pretrained("nano")


@pytest.fixture(scope="module")
def car(tar, tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "car.png"
    tar.generate("a purple car", seed=1)[0].save(path)
    return path


def test_the_bundled_model_is_listed(llm):
    assert "opentar/nano" in {model.model_id for model in llm.get_models()}


def test_it_answers_as_ask_does(llm, model, tar, car):
    attachment = llm.Attachment(path=str(car))
    said = model.prompt(COLOR, attachments=[attachment])
    assert said.text() == tar.ask(car, COLOR) == "purple"
    assert said.usage().output > 0
    other = car.with_name("red.png")
    Image.new("RGB", (50, 50), "red").save(other)
    both = [attachment, llm.Attachment(content=other.read_bytes())]
    assert model.prompt(COLOR, attachments=both).text() == tar.ask([car, other], COLOR)
    assert model.prompt(COLOR, attachments=[attachment], scale=0).text() == tar.ask(car, COLOR, scale=0)


def test_a_picture_alone_is_described(llm, model, tar, car):
    assert model.prompt(attachments=[llm.Attachment(path=str(car))]).text() == tar.describe(car)


def test_max_tokens_cuts_the_answer(llm, model, tar, car):
    whole, cut = tar.describe(car), model.prompt(attachments=[llm.Attachment(path=str(car))], max_tokens=2)
    assert cut.usage().output == 2
    assert whole.startswith(cut.text()) and whole != cut.text()


def test_text_alone_is_answered_by_the_language_model(model, tar):
    from opentar.engine.request import Request, Text
    from opentar.language.prompt import Turn

    engine = tar.engine()
    heard = engine.builder.heard("Is there a dog?", "question")
    (done,) = engine.results([Request(turns=[Turn("user", (heard,))], grammar=Text(max_new_tokens=40))])
    assert model.prompt("Is there a dog?", max_tokens=40).text() == engine.builder.tokenizer.decode(done.ids).strip()


def test_unknown_words_are_told(llm, model, car):
    with pytest.warns(UserWarning, match="nano never learned 'zeppelin'"):
        model.prompt("Is there a zeppelin?", attachments=[llm.Attachment(path=str(car))]).text()


def test_a_conversation_goes_on_about_its_picture(llm, model, car):
    talk = model.conversation()
    assert talk.prompt(COLOR, attachments=[llm.Attachment(path=str(car))]).text() == "purple"
    second = talk.prompt(COLOR)
    assert [message.role for message in second.prompt.messages] == ["user", "assistant", "user"]
    assert second.text() == "purple"


def test_it_draws_into_a_file(model, tar, tmp_path):
    path = tmp_path / "drawn.png"
    told = model.prompt("a purple car", draw=str(path), seed=1, scale=2, detok="ar").text()
    assert told == str(path)
    drawn, expected = Image.open(path), tar.generate("a purple car", seed=1, scale=2, detok="ar")[0]
    assert drawn.tobytes() == expected.tobytes()
    assert drawn.info["prompt"] == "a purple car"


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("a car", {"draw": "taken.png"}, "is there already"),
        ("a car", {"draw": "car.txt"}, "does not end in .png"),
        ("?!", {"draw": "new.png"}, "no word"),
        ("a car", {"draw": "new.png", "max_tokens": 3}, "max_tokens is of answers"),
        ("a car", {"draw": "new.png", "scale": 7}, "scale"),
        ("a car", {"draw": "new.png", "seed": -1}, "seed is -1"),
        ("what?", {"seed": 3}, "seed is of drawings"),
        ("what?", {"detok": "ar"}, "detok is of drawings"),
        ("what?", {"max_tokens": 0}, "max_tokens is 0"),
        ("", {}, "the prompt is empty"),
        (" ", {}, "empty"),
    ],
)
def test_what_cannot_be_done_is_an_error_of_llm(llm, model, tmp_path, monkeypatch, text, options, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.png").write_bytes(b"mine")
    with pytest.raises(llm.ModelError, match=told):
        model.prompt(text, **options).text()
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]
    assert (tmp_path / "taken.png").read_bytes() == b"mine"


def test_attachments_that_cannot_be_read_or_edited(llm, model, car, tmp_path):
    with pytest.raises(llm.ModelError, match="the attachment"):
        model.prompt("what?", attachments=[llm.Attachment(type="image/png", content=b"no picture")]).text()
    attached = [llm.Attachment(path=str(car))]
    with pytest.raises(llm.ModelError, match="edits pictures"):
        model.prompt("a car", attachments=attached, draw=str(tmp_path / "new.png")).text()
    with pytest.raises(ValueError, match="does not support attachments of type 'audio/wav'"):
        model.prompt("what?", attachments=[llm.Attachment(type="audio/wav", content=b"RIFF")]).text()


def test_llm_itself_finds_it_by_its_entry_point(llm, car, tmp_path):
    """In a new process, with the metadata that an installation writes and no other of ours."""
    info = tmp_path / "opentar_of_the_tests-0.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: opentar-of-the-tests\nVersion: 0.0.0\n")
    (info / "entry_points.txt").write_text(f"[llm]\nopentar = {_entry()}\n")
    source = str(Path(opentar.__file__).parents[1])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(tmp_path), source)),
        "LLM_LOAD_PLUGINS": "opentar-of-the-tests",
        "LLM_USER_PATH": str(tmp_path / "user"),
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    listed = "import llm, sys; print([m.model_id for m in llm.get_models()], 'torch' in sys.modules)"
    told = run("-c", listed)
    assert "'opentar/nano'" in told and told.endswith(" False"), "other models do not wait for torch"
    assert run("-m", "llm", "-m", "opentar/nano", COLOR, "-a", str(car), "--no-log") == "purple"
