"""Starting, helping, stopping: exit codes and what stays unloaded."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import opentar
from opentar import cli


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(opentar.__file__).parents[1])},
    )  # fmt: skip


def test_help_and_version_load_no_torch():
    code = (
        "import sys; from opentar.cli import main; main(['--help']); main(['generate', '--help']); main(['--version']);"
        "heavy = [m for m in ('torch', 'transformers', 'numpy', 'PIL') if m in sys.modules];"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = _python(code)
    assert result.returncode == 0, result.stderr
    for name in ("demo", "generate", "ask", "describe", "reconstruct", "tokens", "train", "eval", "info", "data"):
        assert name in result.stdout


def test_drawing_and_asking_load_no_large_libraries():
    """Each takes a second or more; torch's compiler comes with the first random number without memory."""
    code = (
        "import sys; from opentar import Tar; tar = Tar.from_pretrained('nano');"
        "tar.ask(tar.generate('a red apple')[0], 'What is it?');"
        "heavy = [m for m in ('transformers', 'diffusers', 'scipy', 'sympy', 'torch._dynamo') if m in sys.modules];"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = _python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["genrate", "a"], 'Did you mean "generate"'),
        (["generate"], "PROMPT"),
        (["generate", "a dog", "--sede", "1"], "Did you mean --seed"),
        (["generate", "a dog", "--seed", "x"], '"x"'),
        (["generate", "a dog", "twice"], "twice"),
        (["data", "sheet", "--split", "tset"], "tset"),
        (["train", "nan", "--out", "x"], "Did you mean 'nano'"),
        (["describe"], "name one or more picture files"),
        (["info", "nanoo"], "'nanoo' is unknown"),
    ],
)
def test_wrong_usage_is_one_line_and_two(run, argv, told):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told in err


def test_interrupt_is_130_and_clean(run, tiny_model, monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("opentar.drawing.paint", interrupted)
    code, out, err = run("generate", "a dog", "-o", "out.png", "--model", tiny_model)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted"
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a child")
def test_ctrl_c_in_a_process():
    program = (
        # A shell starts background jobs with SIGINT ignored, and a child inherits that: set it as a terminal does.
        "import os, signal, sys, opentar.commands.read as read; from opentar import cli;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "read.ask.__globals__['text_argument'] = lambda *a: os.kill(os.getpid(), signal.SIGINT);"
        "sys.exit(cli.main(['ask', 'x.png', 'what?']))"
    )
    result = _python(program)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_our_own_faults_show_no_traceback_unless_asked(run, monkeypatch, tiny_model):
    from opentar.pipeline import Tar

    def broken(*args, **kwargs):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(Tar, "generate_iter", broken)
    code, _, err = run("generate", "a dog", "--model", tiny_model)
    assert (code, err.splitlines()[-1]) == (1, "error: RuntimeError: two lines (set OPENTAR_DEBUG=1 to see where)")
    assert "Traceback" not in err
    monkeypatch.setenv("OPENTAR_DEBUG", "1")
    assert "Traceback" in run("generate", "a dog", "--model", tiny_model)[2]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that can be caught")
def test_a_stopped_training_keeps_its_own_exit_code(tmp_path):
    """A real signal in the real loop: it comes while the first step is under way, so that no clock decides."""
    program = (
        "import os, signal, sys; from opentar import cli; from opentar.train.trainer import Trainer\n"
        "step = Trainer._step\n"
        "def signalled(*given):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return step(*given)\n"
        "Trainer._step = signalled\n"
        f"code = cli.main(['train', 'nano', '--out', {str(tmp_path / 'run')!r}, '--stage', 'autoencoder',"
        " '--recipe', 'smoke', '--quiet'])\n"
        "print('returned'); sys.exit(code)\n"
    )
    result = _python(program)
    told = "stopped by signal 15; the same command resumes the run\n"
    assert (result.returncode, result.stdout, result.stderr) == (143, "returned\n", told)
    assert [path.name for path in (tmp_path / "run" / "autoencoder" / "checkpoints").iterdir()] == ["step-0000001"]


def test_every_command_resolves():
    for name in (*cli._COMMANDS, "data"):
        assert cli.build_app()[name].help


def test_a_console_without_chinese_is_no_fault(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "苹果")
    program = "import sys; from opentar.cli import main; sys.exit(main(sys.argv[1:]))"
    for flags in ([], ["--json"]):
        result = subprocess.run(
            [sys.executable, "-c", program, "info", str(folder), *flags],
            capture_output=True, timeout=100, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(opentar.__file__).parents[1]), "PYTHONIOENCODING": "cp1252"},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.decode("ascii"))["folder"] == str(folder)
