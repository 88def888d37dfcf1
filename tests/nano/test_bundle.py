"""A finished model is told again how its texts are written; its weights stay."""

import shutil
from pathlib import Path

import pytest

from opentar import Tar
from opentar.checkpoints import find
from opentar.core.folder import verify
from opentar.nano import bundle


def test_restating_changes_texts_and_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nano = shutil.copytree(find.BUNDLED / "nano", tmp_path / "nano")
    before = {path.relative_to(nano): path.read_bytes() for path in nano.rglob("*") if path.is_file()}
    monkeypatch.setattr(bundle, "known_words", lambda: ("a", "apple"))
    monkeypatch.setattr(bundle, "template", lambda: bundle.ChatTemplate(fold=True, spellings={"grey": "gray"}))
    bundle.restate(nano)
    after = {path.relative_to(nano): path.read_bytes() for path in nano.rglob("*") if path.is_file()}
    assert set(after) == set(before)
    changed = {path.as_posix() for path in after if after[path] != before[path]}
    assert changed == {"config.json", "manifest.json", "language/config.json", "language/manifest.json"}
    verify(nano)
    tar = Tar.from_pretrained(nano)
    assert tar.unknown_words("an APPLE") == ["an"]
    assert tar.parts.language.builder.heard("A Grey APPLE", "prompt") == "a gray apple"


def test_the_template_of_the_recipe_knows_every_name() -> None:
    from opentar.language.spelling import fold
    from opentar.nano.world.concepts import load_concepts

    spellings = bundle.template().spellings
    for concept in load_concepts():
        for name in (concept.en, concept.plural, concept.zh):
            assert fold(name.upper(), spellings, sentence=False) == name
