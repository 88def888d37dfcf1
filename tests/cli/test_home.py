"""A user without a home folder, as in some containers: what needs no cache works, the rest says what to set."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def homeless(monkeypatch):
    """Neither variables nor the system's list of users say where home is."""

    def unknown(self):
        if str(self).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return self

    monkeypatch.setattr(Path, "expanduser", unknown)
    for name in ("HOME", "OPENTAR_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(os.name == "nt", reason="the cache of Windows has a variable of its own")
@pytest.mark.parametrize(
    "argv",
    [
        ("pull", "csuhan/Tar-1.5B"),
        ("pull", "csuhan/Tar-1.5B", "--dry-run"),
        ("rm", "csuhan/Tar-1.5B"),
        ("generate", "a dog", "--model", "csuhan/Tar-1.5B"),
        ("generate", "a dog", "--model", "~/mine"),
        ("generate", "a dog", "--out", "~/dog.png"),
        ("import", "tar", "--llm", "~/a", "--ta-tok", "~/b", "--out", "c"),
    ],
)
def test_what_needs_a_home_names_the_variables(refused, argv):
    assert "set HOME, or OPENTAR_CACHE" in refused(*argv)


def test_the_rest_works(run, tiny_model, picture):
    for argv in (("generate", "a dog"), ("describe", picture), ("reconstruct", picture)):
        assert run(*argv, "--model", tiny_model)[0] == 0
    assert run("info", "nano")[0] == 0
