"""The files around the code agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TARGETS = {"help", "setup", "demo", "test", "soak", "lint", "docs", "clean"}


@pytest.fixture
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def _pins(root: Path) -> dict[str, str]:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): str(one.specifier) for one in found}


def _requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = project["project"]["optional-dependencies"].values()
    texts = [*project["project"]["dependencies"], *(text for extra in extras for text in extra)]
    return [one for one in map(Requirement, texts) if one.name != "opentar"]


def test_every_dependency_is_pinned_within_its_bounds(root: Path, project: dict[str, Any]) -> None:
    pins = _pins(root)
    for requirement in _requirements(project):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pin.removeprefix("=="), prereleases=True), requirement


def test_constraints_hold_plain_exact_versions(root: Path) -> None:
    pins = _pins(root)
    assert pins["torch"] == "==2.13.0"
    assert {name: pin for name, pin in pins.items() if not re.fullmatch(r"==[0-9][0-9a-z.]*", pin)} == {}


def test_hooks_use_the_pinned_versions(root: Path) -> None:
    pins = _pins(root)
    hooks = (root / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    named = re.findall(r'"([a-z-]+)(==[0-9.]+)"', hooks)
    assert named
    assert [(name, pin) for name, pin in named if pins[name] != pin] == []


def test_make_and_its_twin_have_the_same_targets(root: Path) -> None:
    make = (root / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", make, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == TARGETS
    assert {name for name in TARGETS if re.search(rf"^{name}:", make, re.MULTILINE)} == TARGETS
    twin = (root / "make.ps1").read_text(encoding="utf-8")
    choices = re.search(r"ValidateSet\((.+)\)", twin)
    assert choices is not None
    assert set(re.findall(r"'(\w+)'", choices[1])) == TARGETS
    assert {name for name in TARGETS if re.search(rf"^    '{name}' {{", twin, re.MULTILINE)} == TARGETS


def test_ci_runs_tests_and_lint_and_keeps_the_exit_code(root: Path, tmp_path: Path) -> None:
    """With a `make` that fails as told, the script must fail with the same code."""
    import os
    import shutil
    import subprocess

    bash = shutil.which("bash")
    if bash is None or os.name == "nt":
        pytest.skip("needs bash")
    fake = tmp_path / "make"
    fake.write_text('#!/bin/sh\necho "$1" >> "$LOG"\n[ "$1" = "$FAIL" ] && exit 7\nexit 0\n')
    fake.chmod(0o755)
    for failing, code in (("none", 0), ("test", 7), ("lint", 7)):
        log = tmp_path / failing
        environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "LOG": str(log)}
        done = subprocess.run([bash, str(root / ".ci" / "run")], env=environment | {"FAIL": failing}, check=False)
        assert done.returncode == code
        assert log.read_text().split() == ["test", "lint"]


def test_licence_is_apache_in_full(root: Path, project: dict[str, Any]) -> None:
    text = (root / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text) > 10_000
    assert project["project"]["license"] == "Apache-2.0"


def test_the_bundled_data_is_not_ignored(root: Path) -> None:
    ignored = (root / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert not [line for line in ignored if line.strip("/") in ("data", "models", "*.safetensors", "*.parquet")]
