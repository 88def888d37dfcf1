"""The one trainer: stopped and resumed equals uninterrupted, to the bit, whatever stopped it."""

import itertools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from opentar.core.errors import ConfigError, DataError, OutputError, WeightsError
from opentar.core.folder import load_part
from opentar.data.pictures import PictureBatch, PictureData
from opentar.tokens_to_image.autoencoder import AutoencoderConfig
from opentar.train.files import write_json
from opentar.train.optimizers import make_optimizers, rate_at
from opentar.train.recipe import Gate
from opentar.train.stage import LoopSettings, Stage
from opentar.train.stages.autoencoder import AutoencoderSettings, AutoencoderStage
from opentar.train.trainer import Hardware, Interrupted, Trainer

SETTINGS = AutoencoderSettings(
    loop=LoopSettings(
        steps=6, batch_size=2, learning_rate=1e-3, warmup_steps=2, ema_decay=0.9, save_every=2, sample_every=100,
        log_every=1, score_size=4,
    ),
    model=AutoencoderConfig(encoder_channels=(4, 6, 8), decoder_channels=(8, 6, 4)),
)  # fmt: skip


class Blocks:
    """Pictures of one coloured block each."""

    def batch(self, rng: np.random.Generator, count: int) -> PictureBatch:
        pixels, inside = torch.full((count, 3, 128, 128), 200, dtype=torch.uint8), torch.zeros(count, 128, 128)
        for picture, mask in zip(pixels, inside, strict=True):
            x, y, side = (int(number) for number in rng.integers(16, 64, 3))
            picture[:, y : y + side, x : x + side] = torch.from_numpy(rng.integers(0, 255, (3, 1, 1))).byte()
            mask[y : y + side, x : x + side] = 1
        return PictureBatch(pixels.contiguous(memory_format=torch.channels_last), inside)


BLOCKS = Blocks()
DATA = PictureData(train=BLOCKS, held_out={"": BLOCKS})


def stage_of(settings: AutoencoderSettings) -> AutoencoderStage:
    return AutoencoderStage(settings, DATA, BLOCKS)


class StoppedStage(AutoencoderStage):
    """The real stage, with an event before one of its steps."""

    def __init__(self, settings: AutoencoderSettings, step: int, event: object) -> None:
        super().__init__(settings, DATA, BLOCKS)
        self.step, self.event = step, event

    def before_step(self, module: torch.nn.Module, step: int) -> None:
        if step == self.step:
            assert callable(self.event)
            self.event(module)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_part(folder / "result" / "autoencoder")[1]


def terminate(_module: torch.nn.Module) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt(_module: torch.nn.Module) -> None:
    """Ctrl-C in a terminal: it reaches every process, and the parent passes it on."""
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)


def crash(_module: torch.nn.Module) -> None:
    raise MemoryError("the machine gave out")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("whole")
    Trainer(stage_of(SETTINGS), folder, hardware=Hardware(workers=0), quiet=True).run()
    return weights(folder)


def test_the_place_in_the_data_is_counted_in_batches(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        Trainer(StoppedStage(SETTINGS, 2, terminate), tmp_path, hardware=Hardware(workers=0), quiet=True).run()
    with pytest.raises(ConfigError, match=r"1 batches a step.*give the same accumulate"):
        Trainer(stage_of(SETTINGS), tmp_path, hardware=Hardware(workers=0, accumulate=2), quiet=True).run()


@pytest.mark.parametrize(("event", "error"), [(terminate, Interrupted), (interrupt, Interrupted), (crash, MemoryError)])
def test_resume_equals_uninterrupted(
    tmp_path: Path, whole: dict[str, torch.Tensor], event: object, error: type
) -> None:
    with pytest.raises(error):
        Trainer(StoppedStage(SETTINGS, 2, event), tmp_path, hardware=Hardware(workers=1), quiet=True).run()
    assert not multiprocessing.active_children(), "a stopped loop leaves no worker behind"
    assert not (tmp_path / "scores.json").exists()
    Trainer(stage_of(SETTINGS), tmp_path, hardware=Hardware(workers=1), quiet=True).run()
    resumed = weights(tmp_path)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


class TurnedStage(Stage):
    """Two matrices, one moved by Muon and one by AdamW."""

    name = "turned"

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.settings = replace(SETTINGS.loop, ema_decay=0.0, muon=("0.weight",))

    def module(self) -> torch.nn.Module:
        class Net(torch.nn.Sequential):
            def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
                return super().forward(batch["x"]).square().mean(), {}

        return Net(torch.nn.Linear(6, 4), torch.nn.Linear(4, 3))

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        return {"x": torch.from_numpy(rng.normal(size=(size, 6))).float()}

    def before_step(self, module: torch.nn.Module, step: int) -> None:
        if step == self.stop:
            crash(module)

    def scores(self, module: torch.nn.Module) -> dict[str, float]:
        return {}

    def finish(self, module: torch.nn.Module, folder: Path) -> None:
        self.kept = {name: value.clone() for name, value in module.state_dict().items()}


def test_muon_moves_what_is_named_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    straight = TurnedStage()
    turning, plain = make_optimizers(straight, straight.module())[::-1]
    assert [tuple(p.shape) for group in turning.param_groups for p in group["params"]] == [(4, 6)]
    assert sum(len(group["params"]) for group in plain.param_groups) == 3
    Trainer(straight, tmp_path / "straight", hardware=Hardware(workers=0), quiet=True).run()
    with pytest.raises(MemoryError):
        Trainer(TurnedStage(stop=4), tmp_path / "broken", hardware=Hardware(workers=0), quiet=True).run()
    resumed = TurnedStage()
    Trainer(resumed, tmp_path / "broken", hardware=Hardware(workers=0), quiet=True).run()
    assert all(torch.equal(resumed.kept[name], straight.kept[name]) for name in straight.kept)
    adamw = TurnedStage()
    adamw.settings = replace(adamw.settings, muon=())
    Trainer(adamw, tmp_path / "adamw", hardware=Hardware(workers=0), quiet=True).run()
    assert not torch.equal(adamw.kept["0.weight"], straight.kept["0.weight"])
    straight.settings = replace(straight.settings, muon=("nowhere",))
    with pytest.raises(ConfigError, match="muon 'nowhere'"):
        make_optimizers(straight, straight.module())


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    with pytest.raises(MemoryError):
        Trainer(StoppedStage(SETTINGS, 4, crash), tmp_path, hardware=Hardware(workers=0), quiet=True).run()
    newest = tmp_path / "checkpoints" / "step-0000004" / "model.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    loop = Trainer(stage_of(SETTINGS), tmp_path, hardware=Hardware(workers=0))
    loop.run()
    resumed = weights(tmp_path)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_a_broken_off_checkpoint_is_written_again_and_notes_in_it_stay(
    tmp_path: Path, whole: dict[str, torch.Tensor], content: bytes | None
) -> None:
    with pytest.raises(MemoryError):
        Trainer(StoppedStage(SETTINGS, 4, crash), tmp_path, hardware=Hardware(workers=0), quiet=True).run()
    broken = tmp_path / "checkpoints" / "step-0000004"
    (broken / "notes.txt").write_text("mine")
    (broken / "manifest.json").unlink() if content is None else (broken / "manifest.json").write_bytes(content)
    Trainer(stage_of(SETTINGS), tmp_path, hardware=Hardware(workers=0)).run()
    resumed = weights(tmp_path)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    assert (broken / "notes.txt").read_text() == "mine"
    load_part(broken)


def test_steps_lost_behind_the_last_checkpoint_are_made_again(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    with pytest.raises(MemoryError):
        Trainer(StoppedStage(SETTINGS, 3, crash), tmp_path, hardware=Hardware(workers=0), quiet=True).run()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000002"]
    Trainer(stage_of(SETTINGS), tmp_path, hardware=Hardware(workers=0), quiet=True).run()
    resumed = weights(tmp_path)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_damage_everywhere_is_said_not_started_over(tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        Trainer(StoppedStage(SETTINGS, 3, crash), tmp_path, hardware=Hardware(workers=0), quiet=True).run()
    (tmp_path / "checkpoints" / "step-0000002" / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="none of the 1 checkpoints"):
        Trainer(stage_of(SETTINGS), tmp_path, hardware=Hardware(workers=0), quiet=True).run()


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Set the size that no file may grow past in this process: the kernel then refuses writes as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size < 0 else size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Limits(AutoencoderStage):
    """The real stage; before each step the limit on files becomes what `at` says for it."""

    def __init__(self, settings: AutoencoderSettings, at: dict[int, int], limit: Callable[[int], None]) -> None:
        super().__init__(settings, DATA, BLOCKS)
        self.at, self.limit = at, limit

    def before_step(self, module: torch.nn.Module, step: int) -> None:
        if step in self.at:
            self.limit(self.at[step])


def test_samples_and_log_rows_that_the_disk_refuses_do_not_end_a_training(
    tmp_path: Path,
    whole: dict[str, torch.Tensor],
    file_limit: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = replace(SETTINGS, loop=replace(SETTINGS.loop, sample_every=3))
    Trainer(Limits(settings, {2: 100, 3: -1}, file_limit), tmp_path, hardware=Hardware(workers=0)).run()
    said = capsys.readouterr().err
    assert "samples of step 3 cannot be written (File too large); training continues" in said
    assert "the row of step 2 cannot be logged (File too large); training continues" in said
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step-0000006.png"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 3, 4, 5, 6]
    assert all(torch.equal(value, whole[key]) for key, value in weights(tmp_path).items())


def test_a_checkpoint_that_the_disk_refuses_ends_the_run_and_leaves_the_others_whole(
    tmp_path: Path, whole: dict[str, torch.Tensor], file_limit: Callable[[int], None]
) -> None:
    with pytest.raises(OutputError, match="File too large"):
        Trainer(Limits(SETTINGS, {5: 5000}, file_limit), tmp_path, hardware=Hardware(workers=0), quiet=True).run()
    file_limit(-1)
    found = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in found] == ["step-0000002", "step-0000004"]
    assert all(load_part(path)[0]["step"] in (2, 4) for path in found)
    Trainer(stage_of(SETTINGS), tmp_path, hardware=Hardware(workers=0), quiet=True).run()
    assert all(torch.equal(value, whole[key]) for key, value in weights(tmp_path).items())


def test_scores_that_the_disk_refuses_leave_the_old_ones(tmp_path: Path, file_limit: Callable[[int], None]) -> None:
    write_json(tmp_path / "scores.json", {"psnr": 20})
    file_limit(100)
    with pytest.raises(OutputError, match="File too large"):
        write_json(tmp_path / "scores.json", list(range(100)))
    file_limit(-1)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]
    assert json.loads((tmp_path / "scores.json").read_text()) == {"psnr": 20}


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        Trainer(StoppedStage(SETTINGS, 2, crash), tmp_path, hardware=Hardware(workers=0), quiet=True).run()
    faster = replace(SETTINGS, loop=replace(SETTINGS.loop, learning_rate=2e-3))
    for other in (faster, replace(SETTINGS, object_weight=5.0)):
        with pytest.raises(ConfigError, match="other settings"):
            Trainer(stage_of(other), tmp_path, hardware=Hardware(workers=0), quiet=True).run()


def test_a_step_that_is_not_finite_changes_nothing_and_too_many_stop_the_run(tmp_path: Path) -> None:
    def poison(module: torch.nn.Module) -> None:
        with torch.no_grad():
            next(module.parameters()).fill_(float("nan"))

    stage = StoppedStage(replace(SETTINGS, loop=replace(SETTINGS.loop, steps=20, save_every=50)), 1, poison)
    with pytest.raises(DataError, match="not finite for 6 steps"):
        Trainer(stage, tmp_path, hardware=Hardware(workers=0), quiet=True).run()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert np.isnan(rows[2]["loss"]), "a NaN is logged as NaN"
    assert not (tmp_path / "checkpoints").exists(), "no checkpoint with NaN is ever kept"


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    class Spoilt(AutoencoderStage):
        """One step whose loss is fine and whose gradient is not."""

        def module(self) -> torch.nn.Module:
            module = super().module()
            self.bias = next(p for name, p in module.named_parameters() if name.endswith("bias"))
            return module

        def before_step(self, module: torch.nn.Module, step: int) -> None:
            if step == 1:
                self.before = {key: value.clone() for key, value in module.state_dict().items()}
                self.hook = self.bias.register_hook(lambda grad: grad * float("nan"))
            if step == 2:
                self.hook.remove()
                self.after = {key: value.clone() for key, value in module.state_dict().items()}

    stage = Spoilt(SETTINGS, DATA, BLOCKS)
    Trainer(stage, tmp_path, hardware=Hardware(workers=0), quiet=True).run()
    assert all(torch.equal(stage.before[key], stage.after[key]) for key in stage.before)


def test_batches_do_not_depend_on_workers_or_on_where_training_resumed() -> None:
    stage = stage_of(SETTINGS)
    first = stage.stream(workers=0, rank=0, world=1, accumulate=1)
    straight = [batch["pixels"] for batch in first]
    assert first.state() == {"next": 6}
    later = stage.stream(workers=1, rank=0, world=1, accumulate=1)
    later.resume({"next": 3})
    resumed = [batch["pixels"] for batch in later]
    later.close()
    assert len(straight) == 6 and all(torch.equal(a, b) for a, b in zip(straight[3:], resumed, strict=True))


def test_the_rate_warms_up_and_falls() -> None:
    settings = LoopSettings(steps=100, batch_size=1, learning_rate=1e-3, warmup_steps=10, final_fraction=0.1)
    rates = [rate_at(settings, step) for step in range(100)]
    assert (
        rates[0] == pytest.approx(0.1)
        and max(rates) == pytest.approx(1.0)
        and rates[-1] == pytest.approx(0.1, abs=0.01)
    )
    assert all(late <= early for early, late in itertools.pairwise(rates[10:]))


def test_gates_say_what_was_missed() -> None:
    gate = Gate("scene_p1", 0.6)
    assert gate.check("teacher", {"scene_p1": 0.6}) is None
    refusal = gate.check("teacher", {"scene_p1": 0.41})
    assert refusal is not None and "0.410" in refusal and "0.600" in refusal and "--no-gates" in refusal
    assert "missing" in str(gate.check("teacher", {}))


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("learning_rate", 2.0), ("ema_decay", 1.0), ("batch_size", -1)]
)
def test_settings_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(SETTINGS.loop, **{field: value})
