"""`opentar train nano`: every stage in order, gated, each in a process of its own, two at a time where two cores are.

A run folder holds one folder a stage: checkpoints/, samples/, log.jsonl, tensorboard/, result/ and, once the stage
has ended, scores.json. Calling the same command again goes on where it stopped: finished stages are passed over, a
broken-off one resumes from its newest whole checkpoint and ends with the weights of a run that was never stopped.
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
from opentar.core.config import to_dict
from opentar.core.errors import ConfigError, DataError
from opentar.train import recipes
from opentar.train.files import only_one, write_json
from opentar.train.loop import Interrupted
from opentar.train.steps import STEPS

SCORES = "scores.json"
"""Written when a stage has ended: its final scores, and what tells which endings of other stages it was built on."""


def train_nano(
    out: Path,
    stages: Sequence[str] | None = None,
    *,
    recipe: str = "nano",
    jobs: int | None = None,
    gates: bool = True,
    quiet: bool = False,
) -> dict[str, dict[str, float]]:
    """Train the nano model into the run folder `out`.

    Args:
        out: run folder, made when missing; an existing one is gone on with.
        stages: names of single stages to run here, in this process; None runs all of them.
        recipe: a function of `recipes.py`.
        jobs: stages at a time; None takes one for each core, at most two: the long way is a chain.
        gates: False goes on past a stage that missed its score.

    Returns:
        The final scores of every stage that has ended.

    Raises:
        ConfigError: unknown stage or recipe, or a run folder with another recipe.
        DataError: a shut gate or a failed stage.
    """
    recipe_of(recipe)
    for name in stages or ():
        if name not in STEPS:
            raise ConfigError(f"unknown stage {name!r}; the stages are {', '.join(STEPS)}")
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, recipe)
    if stages is None:
        _run_all(out, recipe, jobs or min(2, os.cpu_count() or 1), gates=gates, quiet=quiet)
    else:
        for name in stages:
            run_stage(out, name, recipe=recipe, gates=gates, quiet=quiet)
    return {name: scores for name in STEPS if (scores := read_scores(out, name)) is not None}


def recipe_of(name: str) -> recipes.Recipe:
    """The recipe called `name`. Raises ConfigError naming the known ones."""
    known = {function.__name__: function for function in recipes.RECIPES}
    if name not in known:
        raise ConfigError(f"unknown recipe {name!r}; the recipes are {', '.join(known)}")
    return known[name]()


def _claim(out: Path, recipe: str) -> None:
    """Write the resolved recipe into a new run folder; refuse one that was started with other numbers."""
    path, resolved = out / "recipe.json", json.loads(json.dumps({"name": recipe, **to_dict(recipe_of(recipe))}))
    if not path.exists():
        write_json(path, resolved)
        return
    begun = json.loads(path.read_text())
    if begun != resolved:
        other = [key for key in sorted({*begun, *resolved}) if begun.get(key) != resolved.get(key)]
        raise ConfigError(
            f"{out} was started with other values of {', '.join(other)} than recipe {recipe!r} has; "
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


def run_stage(
    out: Path, name: str, *, recipe: str = "nano", gates: bool = True, quiet: bool = False
) -> dict[str, float]:
    """Run one stage here. Its needs must have ended, and (with `gates`) reached their scores.

    Runs on as many threads as OMP_NUM_THREADS says, else one: other numbers of threads round otherwise, so a stage that
    shall end with the same bits must be resumed with the number it was started with.
    """
    step = STEPS[name]
    done = read_scores(out, name)
    if done is not None:
        return done
    for need in step.needs:
        scores = read_scores(out, need)
        if scores is None:
            raise ConfigError(f"stage {name} needs stage {need} first: opentar train nano --out {out} --stage {need}")
        refusal = STEPS[need].refusal(need, scores, recipe_of(recipe).gated) if gates else None
        if refusal:
            raise DataError(refusal)
    torch.set_num_threads(environment.threads() or 1)
    with only_one(out / name):
        scores = step.run(recipe_of(recipe), out, quiet)
        write_json(out / name / SCORES, {"scores": scores, "needs": {need: _digest(out, need) for need in step.needs}})
    return scores


def _run_all(out: Path, recipe: str, jobs: int, *, gates: bool, quiet: bool) -> None:
    """Start every stage whose needs have ended, `jobs` at a time, the longest way to the end first."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    # Without this a SIGTERM would end us and leave the stages training on.
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        while True:
            ended = [name for name, process in running.items() if process.poll() is not None]
            for name in ended:
                if running.pop(name).returncode:
                    raise DataError(f"stage {name} stopped early; its own lines above say why")
            waiting = [name for name in STEPS if name not in running and read_scores(out, name) is None]
            if not waiting and not running:
                return
            ready = [name for name in waiting if all(read_scores(out, need) is not None for need in STEPS[name].needs)]
            ready.sort(key=lambda name: -STEPS[name].weight)
            for name in ready[: jobs - len(running)]:
                running[name] = _start(out, name, recipe, jobs, gates=gates, quiet=quiet)
            time.sleep(0.5)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def _start(out: Path, name: str, recipe: str, jobs: int, *, gates: bool, quiet: bool) -> subprocess.Popen[bytes]:
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    command = [sys.executable, "-m", "opentar", "train", "nano", "--out", str(out), "--stage", name, "--recipe", recipe]
    command += [] if gates else ["--no-gates"]
    command += ["--quiet"] if quiet else []
    # Its lines go to the error stream, so that --json stays alone on the other.
    return subprocess.Popen(command, env=environment.for_child(OMP_NUM_THREADS=threads), stdout=sys.stderr)
