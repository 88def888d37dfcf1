"""`opentar train nano`: every stage in order, gated, each in a process of its own, two at a time where two cores are.

A run folder holds one folder a stage: checkpoints/, samples/, log.jsonl, tensorboard/, result/ and, once the stage
has ended, scores.json. Calling the same command again goes on where it stopped: finished stages are passed over, a
broken-off one resumes from its newest whole checkpoint and ends with the weights of a run that was never stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from opentar.core import environment
from opentar.core.config import to_dict
from opentar.core.errors import ConfigError, DataError
from opentar.train import recipes
from opentar.train.steps import STEPS


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
        jobs: stages at a time; None takes one for each core, at most two (more never are ready at once).
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
    """Write the resolved recipe into a new run folder; refuse one that another recipe made."""
    path, resolved = out / "recipe.json", json.loads(json.dumps({"name": recipe, **to_dict(recipe_of(recipe))}))
    if not path.exists():
        path.write_text(json.dumps(resolved, indent=1))
        return
    if json.loads(path.read_text())["name"] != recipe:
        raise ConfigError(f"{out} was started with another recipe than {recipe!r}; give another --out folder")


def read_scores(out: Path, name: str) -> dict[str, float] | None:
    """The final scores of a stage, None while it has not ended."""
    path = out / name / "scores.json"
    return json.loads(path.read_text()) if path.exists() else None


def run_stage(
    out: Path, name: str, *, recipe: str = "nano", gates: bool = True, quiet: bool = False
) -> dict[str, float]:
    """Run one stage here. Its needs must have ended, and (with `gates`) reached their scores."""
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
    scores = step.run(recipe_of(recipe), out, quiet)
    (out / name).mkdir(parents=True, exist_ok=True)
    (out / name / "scores.json").write_text(json.dumps(scores, indent=1))
    return scores


def _run_all(out: Path, recipe: str, jobs: int, *, gates: bool, quiet: bool) -> None:
    """Start every stage whose needs have ended, `jobs` at a time, the longest way to the end first."""
    running: dict[str, subprocess.Popen[bytes]] = {}
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


def _start(out: Path, name: str, recipe: str, jobs: int, *, gates: bool, quiet: bool) -> subprocess.Popen[bytes]:
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    command = [sys.executable, "-m", "opentar", "train", "nano", "--out", str(out), "--stage", name, "--recipe", recipe]
    command += [] if gates else ["--no-gates"]
    command += ["--quiet"] if quiet else []
    # Its lines go to the error stream, so that --json stays alone on the other.
    return subprocess.Popen(command, env=environment.for_child(OMP_NUM_THREADS=threads), stdout=sys.stderr)
