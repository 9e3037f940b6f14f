"""The loop: it learns, it resumes exactly, and it stops before it does harm."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from khala.errors import CheckpointError, ConfigError, StageError
from khala.train import Task, TrainConfig, TrainState, train
from khala.train.checkpoints import list_checkpoints, save_checkpoint
from khala.train.hooks import (
    Checkpoints,
    Hook,
    Interrupts,
    Log,
    TimeLimit,
    Validation,
    catch_signals,
    read_log,
)

Make = Callable[..., Task]
CONFIG = TrainConfig(
    num_steps=12,
    num_parts=2,
    lr=0.02,
    warmup_steps=3,
    log_every=2,
    validate_every=5,
    precision="float32",
    optimiser="muon",
)


class Stop(Hook):
    """Ends a run at a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, state: TrainState, losses: dict[str, Tensor]) -> None:  # noqa: ARG002
        if state.step == self.step:
            state.stopped = "signal"


def run(task: Task, folder: Path, *hooks: Hook, config: TrainConfig = CONFIG) -> TrainState:
    folder.mkdir(exist_ok=True)
    said: list[str] = []
    return train(
        task, config, folder, hooks=[Log(said.append), *hooks, Checkpoints()], say=said.append
    )


def everything(state: TrainState) -> dict[str, Tensor]:
    return {
        **{f"m.{k}": v for k, v in state.task.model.state_dict().items()},
        **{f"a.{k}": v for k, v in state.average.tensors.items()},
        **{f"o.{k}": v for k, v in state.optimiser.state_tensors().items()},
        **{f"e.{k}": v for k, v in state.task.extra_state().items()},
    }


def same(one: TrainState, two: TrainState) -> None:
    a, b = everything(one), everything(two)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert (one.step, one.num_items) == (two.step, two.num_items)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_learns(tmp_path: Path, line: Make, optimiser: str) -> None:
    """A loop that cannot fit a line will not fit a song."""
    config = replace(CONFIG, num_steps=200, lr=0.05, optimiser=optimiser, num_parts=1)
    run(line(), tmp_path, config=config)
    losses = [row["loss"] for row in read_log(tmp_path)]
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_resumed_equals_never_stopped(tmp_path: Path, line: Make, stop: int) -> None:
    """A run that changes when the power fails cannot be trusted, compared or repeated."""
    whole = run(line(), tmp_path / "whole")
    run(line(), tmp_path / "cut", Stop(stop))
    again = line()
    resumed = run(again, tmp_path / "cut")
    same(whole, resumed)
    assert min(again.seen) == (stop, 0), "batches of finished steps were built again"
    rows = [
        [{k: row[k] for k in ("step", "loss", "lr")} for row in read_log(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    even = [row for row in rows[1] if row["step"] > stop + 1]
    assert even == [row for row in rows[0] if row["step"] > stop + 1]


def test_a_log_never_shows_a_step_twice(tmp_path: Path, line: Make) -> None:
    """A curve that jumps back after a crash misleads whoever reads it."""
    run(line(), tmp_path, Stop(4))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 1}\n{"step": 8, "lo')
    run(line(), tmp_path)
    steps = [row["step"] for row in read_log(tmp_path)]
    assert steps == sorted(set(steps))


def test_not_a_number_stops_before_the_weights_move(tmp_path: Path, line: Make) -> None:
    """One bad batch must cost one message, not the model."""
    clean = run(line(), tmp_path / "clean", Stop(7))
    poisoned = line(poison_at=7)
    with pytest.raises(StageError, match="step 7") as caught:
        run(poisoned, tmp_path / "poisoned")
    assert caught.value.stage == "train line"
    for one, two in zip(clean.task.model.parameters(), poisoned.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not list_checkpoints(tmp_path / "poisoned"), "a broken run was saved"


def tensors_of(checkpoint: Path) -> Path:
    (found,) = checkpoint.glob("*.safetensors")
    return found


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["tensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    tmp_path: Path, line: Make, name: str
) -> None:
    """Silently beginning anew, or going on from flipped bits, would throw days away."""

    class Often(Hook):
        def after_step(self, state: TrainState, losses: dict[str, Tensor]) -> None:  # noqa: ARG002
            save_checkpoint(state)

    whole = run(line(), tmp_path / "whole")
    run(line(), tmp_path / "cut", Often(), Stop(8))
    kept = list_checkpoints(tmp_path / "cut")
    assert [path.name for path in kept] == ["step-0000007", "step-0000008"]
    if name == "manifest.json":
        (kept[1] / name).write_text("{")
    elif name == "tensors":
        damage(tensors_of(kept[1]))
    else:
        damage(kept[1] / name)
    said: list[str] = []
    resumed = train(line(), CONFIG, tmp_path / "cut", say=said.append)
    assert any("refused" in text and "step-0000008" in text for text in said)
    assert any("step 7" in text for text in said)
    same(whole, resumed)
    damage(tensors_of(kept[0]))
    (kept[1] / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="every checkpoint"):
        train(line(), CONFIG, tmp_path / "cut")


def test_a_writer_killed_midway_leaves_nothing_to_believe(
    tmp_path: Path, line: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint cut short by a full disk must not hide the one before it."""
    state = run(line(), tmp_path, Stop(3))
    state.step = 4

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("khala.train.checkpoints._flush", full)
    with pytest.raises(OSError, match="full"):
        save_checkpoint(state)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-0000003"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_signals_end_a_run_with_a_checkpoint(tmp_path: Path, line: Make) -> None:
    """Ctrl-C must save what was learned, and the next start go on from there."""
    interrupts = Interrupts()

    class Press(Hook):
        def after_step(self, state: TrainState, losses: dict[str, Tensor]) -> None:  # noqa: ARG002
            if state.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with catch_signals(interrupts):
        state = run(line(), tmp_path, Press(), interrupts)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (state.stopped, state.step) == ("signal", 3)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-0000003"]


def test_the_time_limit_stops_and_going_on_is_exact(tmp_path: Path, line: Make) -> None:
    """A rented machine is given back in time; nothing of the run is lost by that."""
    whole = run(line(), tmp_path / "whole")
    short = replace(CONFIG, max_seconds=1e-6)
    state = run(line(), tmp_path / "cut", TimeLimit(), config=short)
    assert (state.stopped, state.step) == ("time", 1)
    same(whole, run(line(), tmp_path / "cut"))


def test_validation_uses_the_average_and_puts_the_weights_back(tmp_path: Path, line: Make) -> None:
    """Validating must not change what is being trained."""
    plain = run(line(), tmp_path / "plain")
    validated = run(line(), tmp_path / "validated", Validation(lambda _: None))
    same(plain, validated)
    rows = [row for row in read_log(tmp_path / "validated") if "valid" in row]
    assert [row["step"] for row in rows] == [5, 10, 12]
    with validated.average.applied():
        expected = validated.task.validate(12)["loss"]
    assert rows[-1]["valid"]["loss"] == expected


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, line: Make) -> None:
    """Weights of another run in the same folder must not be half loaded."""
    run(line(), tmp_path, Stop(2))
    other = line()
    other.model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with pytest.raises(CheckpointError, match="does not fit"):
        run(other, tmp_path)
    other = line()
    other.kind = "curve"
    with pytest.raises(CheckpointError, match="not a checkpoint of a curve"):
        run(other, tmp_path)


def test_nonsense_configs_are_refused() -> None:
    """A typing mistake must cost a line of text, not a night."""
    for name, value in (
        ("num_steps", 0),
        ("lr", 0.0),
        ("schedule", "cosin"),
        ("beta1", 1.0),
        ("max_seconds", -1.0),
        ("warmup_steps", -1),
    ):
        with pytest.raises(ConfigError, match=name):
            replace(CONFIG, **{name: value})


def test_state_json_says_where_it_is(tmp_path: Path, line: Make) -> None:
    """A person who looks into a checkpoint must see what it is."""
    run(line(), tmp_path, Stop(2))
    document = json.loads((list_checkpoints(tmp_path)[0] / "state.json").read_text())
    assert (document["kind"], document["step"], document["num_items"]) == ("line", 2, 24)
