"""A recipe carried out: every step in order, gated, each in a process of its own, two at a time where two cores are.

A run folder holds one folder a stage: checkpoints/, samples/, log.jsonl, tensorboard/, result/ and, once the stage
has ended, scores.json. The same command again resumes the run: finished stages are passed over, a broken-off one
resumes from its newest whole checkpoint and ends with the weights of a run that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import torch

from opentar.core import environment
from opentar.core.errors import ConfigError, DataError, shown
from opentar.train.files import only_one, write_json
from opentar.train.recipe import Recipe
from opentar.train.trainer import Interrupted

SCORES = "scores.json"
"""Written when a stage has ended: its final scores, and what tells which endings of other stages it was built on."""


def train(
    recipe: Recipe,
    out: Path,
    stages: Sequence[str] | None = None,
    *,
    jobs: int | None = None,
    gates: bool = True,
    quiet: bool = False,
) -> dict[str, dict[str, float]]:
    """Train a model into the run folder `out`.

    Args:
        recipe: what to train.
        out: run folder, made when missing; an existing one is resumed.
        stages: names of single steps to run here, in this process; None runs all of them.
        jobs: steps at a time; None takes one for each core, at most two: the long way is a chain.
        gates: False continues past a step that missed its score.

    Returns:
        The final scores of every step that has ended.

    Raises:
        ConfigError: unknown stage, or a run folder with another recipe.
        DataError: a shut gate or a failed step.
    """
    for name in stages or ():
        if name not in recipe.steps:
            raise ConfigError(f"unknown stage {shown(name)}; the stages are {', '.join(recipe.steps)}")
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, recipe)
    if stages is None:
        _run_all(recipe, out, jobs or min(2, os.cpu_count() or 1), gates=gates, quiet=quiet)
    else:
        for name in stages:
            run_step(recipe, out, name, gates=gates, quiet=quiet)
    return {name: scores for name in recipe.steps if (scores := read_scores(out, name)) is not None}


def _claim(out: Path, recipe: Recipe) -> None:
    """Write the resolved recipe into a new run folder; refuse one that was started with other numbers."""
    path = out / "recipe.json"
    resolved = json.loads(json.dumps({"name": recipe.name, **recipe.settings}))
    if not path.exists():
        write_json(path, resolved)
        return
    begun = json.loads(path.read_text())
    if begun != resolved:
        other = [key for key in sorted({*begun, *resolved}) if begun.get(key) != resolved.get(key)]
        raise ConfigError(
            f"{out} was started with other values of {', '.join(other)} than recipe {recipe.name!r} has; "
            "give another --out folder"
        )


def read_scores(out: Path, name: str) -> dict[str, float] | None:
    """The final scores of a stage, None while it has not ended.

    Raises: DataError where a stage it was built on has been trained again since.
    """
    path = out / name / SCORES
    if not path.exists():
        return None
    ended = json.loads(path.read_text())
    for need, digest in ended["needs"].items():
        if digest != _digest(out, need):
            raise DataError(
                f"stage {name} in {out} was built on another {need} than is there now; "
                f"delete {out / name} to train it again"
            )
    scores: dict[str, float] = ended["scores"]
    return scores


def _digest(out: Path, name: str) -> str:
    """What tells one ending of a stage from another."""
    path = out / name / SCORES
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else "missing"


def run_step(recipe: Recipe, out: Path, name: str, *, gates: bool = True, quiet: bool = False) -> dict[str, float]:
    """Run one step here. Its needs must have ended, and (with `gates`) reached their scores.

    Runs on as many threads as OMP_NUM_THREADS says, else one: other numbers of threads round otherwise, so a stage that
    shall end with the same bits must be resumed with the number it was started with.
    """
    step = recipe.steps[name]
    done = read_scores(out, name)
    if done is not None:
        return done
    for need in step.needs:
        scores = read_scores(out, need)
        if scores is None:
            raise ConfigError(
                f"stage {name} needs stage {need} first: opentar train {recipe.model} --out {out} --stage {need}"
            )
        refusal = recipe.steps[need].refusal(need, scores) if gates and recipe.gated else None
        if refusal:
            raise DataError(refusal)
    torch.set_num_threads(environment.threads() or 1)
    with only_one(out / name):
        scores = step.run(out, quiet)
        write_json(out / name / SCORES, {"scores": scores, "needs": {need: _digest(out, need) for need in step.needs}})
    return scores


def _run_all(recipe: Recipe, out: Path, jobs: int, *, gates: bool, quiet: bool) -> None:
    """Start every step whose needs have ended, `jobs` at a time, the longest way to the end first."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    # Without this a SIGTERM would end us and leave the steps training on.
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        while True:
            ended = [name for name, process in running.items() if process.poll() is not None]
            for name in ended:
                if running.pop(name).returncode:
                    raise DataError(f"stage {name} stopped early; its own lines above say why")
            waiting = [name for name in recipe.steps if name not in running and read_scores(out, name) is None]
            if not waiting and not running:
                return
            ready = [
                name for name in waiting if all(read_scores(out, need) is not None for need in recipe.steps[name].needs)
            ]
            ready.sort(key=lambda name: -recipe.steps[name].weight)
            for name in ready[: jobs - len(running)]:
                running[name] = _start(recipe, out, name, jobs, gates=gates, quiet=quiet)
            time.sleep(0.5)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def _start(recipe: Recipe, out: Path, name: str, jobs: int, *, gates: bool, quiet: bool) -> subprocess.Popen[bytes]:
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    command = [sys.executable, "-m", "opentar", "train", recipe.model, "--out", str(out), "--stage", name]
    command += ["--recipe", recipe.name]
    command += [] if gates else ["--no-gates"]
    command += ["--quiet"] if quiet else []
    # Its lines go to the error stream, so that --json stays alone on the other.
    return subprocess.Popen(command, env=environment.for_child(OMP_NUM_THREADS=threads), stdout=sys.stderr)
