"""What is in deploy/: its commands are those of the command line, its rights are small."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from opentar.cli import build_app
from opentar.commands.serve import serve

DEPLOY = Path(__file__).parents[2] / "deploy"


def dockerfile() -> dict[str, str]:
    """The last line of each instruction, its continuations joined."""
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))


def service() -> dict[str, Any]:
    """The one service of the compose file."""
    (found,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    return dict(found)


def unit() -> dict[str, str]:
    """Names and values of the unit of systemd."""
    lines = (DEPLOY / "opentar.service").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def commands() -> dict[str, list[str]]:
    """Everything that is run."""
    entry = json.loads(dockerfile()["ENTRYPOINT"])
    return {
        "Dockerfile": entry + json.loads(dockerfile()["CMD"]),
        "compose": entry + service()["command"],
        "systemd": shlex.split(unit()["ExecStart"]),
    }


@pytest.mark.parametrize("where", ["Dockerfile", "compose", "systemd"])
def test_its_commands_are_those_of_the_command_line(where: str) -> None:
    program, *arguments = commands()[where]
    assert Path(program).name == "opentar"
    command, bound, _ = build_app().parse_args(arguments, exit_on_error=False, print_error=False)
    assert command is serve
    assert bound.arguments["port"] == 8000 and bound.arguments["model"] == ["nano"]


def test_others_reach_it_only_with_a_key_and_it_may_write_nothing() -> None:
    assert "--insecure" not in str(commands())
    own = service()
    assert own["environment"]["OPENTAR_API_KEY"].startswith("${OPENTAR_API_KEY:?")
    assert own["ports"] == ["127.0.0.1:8000:8000"]
    assert own["read_only"] is True and own["cap_drop"] == ["ALL"] and own["volumes"][0].endswith(":ro")
    assert int(dockerfile()["USER"]) >= 1000
    assert unit()["DynamicUser"] == "yes" and unit()["ProtectSystem"] == "strict"
    assert "127.0.0.1" in unit()["ExecStart"]


def test_time_to_end_is_longer_than_what_requests_are_given() -> None:
    grace = {
        name: int(command[command.index("--grace") + 1]) for name, command in commands().items() if name != "Dockerfile"
    }
    assert grace["compose"] < int(service()["stop_grace_period"].removesuffix("s"))
    assert grace["systemd"] < int(unit()["TimeoutStopSec"])


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_the_dockerfile_is_linted() -> None:
    done = subprocess.run(["hadolint", str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "opentar.service").read_text(encoding="utf-8").replace("/opt/opentar/bin/opentar", "/bin/true")
    (tmp_path / "opentar.service").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "opentar.service")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
