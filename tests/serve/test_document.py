"""The Python of docs/serving.md does what it says, against a real server of nano."""

import re
from pathlib import Path

import pytest


def test_the_example_runs_and_gives_its_answer(serving, root, tmp_path, monkeypatch, capsys) -> None:
    text = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with serving({"nano": "nano"}) as live:
        code = block.replace("http://127.0.0.1:8000", live.url)
        assert code != block
        exec(compile(code, "docs/serving.md", "exec"), {"__name__": "document"})
    assert capsys.readouterr().out.strip() == block.rsplit("# ", 1)[1].strip() == "purple"
    assert (Path("car.png")).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("word", ["routes", "operation"])
def test_every_route_stands_in_the_document(live, root, word) -> None:
    text = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    for path in live.http.get("/openapi.json").json()["paths"]:
        assert path.replace("{model}", "NAME") in text, path
    assert f"## {word.capitalize()}" in text
