"""The Python of docs/serving.md does what it says, against a real server of nano."""

import re
from pathlib import Path

import pytest


def test_the_example_runs_and_gives_its_answer(serving, root, tmp_path, monkeypatch, capsys) -> None:
    text = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "document"}
    with serving({"nano": "nano"}) as live:
        assert "http://127.0.0.1:8000" in blocks[0]
        for block in blocks:
            exec(compile(block.replace("http://127.0.0.1:8000", live.url), "docs/serving.md", "exec"), names)
            said = re.findall(r"  # (.*)$", block, re.MULTILINE)
            assert said and capsys.readouterr().out.splitlines() == said
    assert (Path("car.png")).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("word", ["routes", "operation"])
def test_every_route_stands_in_the_document(live, root, word) -> None:
    text = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    for path in live.http.get("/openapi.json").json()["paths"]:
        assert path.replace("{model}", "NAME").replace("{response}", "ID") in text, path
    assert f"## {word.capitalize()}" in text
