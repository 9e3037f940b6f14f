"""``khala train``: a recipe, overrides and a folder become a trained model folder.

RUN/config.json     what is trained, resolved, written before step 0; never changed after
RUN/log.jsonl       losses, speed and validation by step
RUN/baselines.json  what counting alone reaches on the same validation songs
RUN/checkpoints/    to go on from: the same command again does
RUN/model/          the averaged weights as a model folder, once the run has ended; RUN/adapter/
                    instead where only a change of a model was trained
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from khala.checkpoint import config_from_dict, config_to_dict
from khala.errors import Cancelled, CheckpointError, ConfigError
from khala.recipes.overrides import apply_overrides
from khala.train.board import Board
from khala.train.curves import Curves
from khala.train.device import check_device, precision_of
from khala.train.hooks import Checkpoints, Interrupts, Log, TimeLimit, Validation, catch_signals
from khala.train.loop import train
from khala.train.ranks import Ranks, gather_layers, start_ranks
from khala.train.samples import Samples
from khala.train.speed import num_steps_for
from khala.train.standing import Show
from khala.train.state import TrainConfig, TrainState
from khala.train.task import Task

__all__ = ["Order", "Run", "execute"]

Say = Callable[[str], None]


class Run(Protocol):
    """A resolved config that holds how the loop goes."""

    @property
    def train(self) -> TrainConfig: ...


R = TypeVar("R", bound=Run)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What was asked for on the command line, the same for every kind of model."""

    run_dir: Path
    """The run's folder; made, or gone on with."""

    recipe: str
    """Name of the recipe."""

    overrides: Sequence[str] = ()
    """``key=value`` against the recipe."""

    minutes: float | None = None
    """Choose ``train.num_steps`` so that the run takes about this long on this machine."""

    device: str = "cpu"
    """"cpu" or "cuda"."""


def execute(
    kind: str,
    order: Order,
    recipes: dict[str, Callable[[], R]],
    build: Callable[[R], Task],
    *,
    inputs: dict[str, str],
    say: Say,
    show: Show | None = None,
) -> Path:
    """Start a run or go on with it; return the folder of the exported model or adapter.

    Args:
        kind: "codec", "backbone" or "superres".
        order: what was asked for.
        recipes: the recipes of this kind by name.
        build: makes the task of a resolved config; called twice when a speed must be measured.
        inputs: digests of what is trained on; a run never goes on with other data.
        say: takes lines for the reader.
        show: takes where the run is after every step, instead of lines of losses.

    Raises:
        ConfigError: unknown recipe or setting, or the folder belongs to another run.
        Cancelled: the process was asked to stop; a checkpoint was written.
        StageError: the numbers stopped being finite.
    """
    check_device(order.device)
    ranks, device = start_ranks(order.device)
    order = replace(order, device=device)
    try:
        return _execute(
            kind, order, recipes, build, inputs, say if ranks.is_first else _quiet, show, ranks
        )
    finally:
        ranks.close()


def _quiet(message: str) -> None:
    """Say nothing: one process speaks for all."""
    del message


def _execute(
    kind: str,
    order: Order,
    recipes: dict[str, Callable[[], R]],
    build: Callable[[R], Task],
    inputs: dict[str, str],
    say: Say,
    show: Show | None,
    ranks: Ranks,
) -> Path:
    """Do what `execute` says, as one of the processes."""
    if order.recipe not in recipes:
        raise ConfigError(f"no {kind} recipe {order.recipe!r}: one of {', '.join(sorted(recipes))}")
    asked = apply_overrides(recipes[order.recipe](), order.overrides)
    asked.train.check_ranks(ranks.num)
    if order.minutes is not None and ranks.num > 1:
        raise ConfigError("--minutes is for one process; give --set train.num_steps=N to several")
    if ranks.is_first:
        order.run_dir.mkdir(parents=True, exist_ok=True)
        if _stored(kind, order, asked, inputs) is None:
            first = asked if order.minutes is None else _fitted(asked, order, build, say)
            _store(kind, order, first, inputs)
    ranks.wait()
    run = _stored(kind, order, asked, inputs)
    assert run is not None
    task = build(run)
    if ranks.is_first:
        _say_baselines(task, order.run_dir, say)
    state = _train(task, run.train, order, say, show, ranks)
    if state.stopped == "signal":
        raise Cancelled(
            f"stopped at step {state.step} of {run.train.num_steps}; the same command goes on"
        )
    if state.stopped == "time":
        say(f"time is up at step {state.step} of {run.train.num_steps}; the same command goes on")
    folder = order.run_dir / task.product
    with state.average.applied():
        task.model.eval()
        if run.train.sharding != "none":
            gather_layers(task.model)
        if ranks.is_first:
            folder = task.export(folder)
        ranks.wait()
        task.model.train()
    say(f"{task.product} written to {folder}")
    return folder


def _train(
    task: Task, config: TrainConfig, order: Order, say: Say, show: Show | None, ranks: Ranks
) -> TrainState:
    """Run the loop with everything around it."""
    numbers = [(p.numel(), p.requires_grad) for p in task.model.parameters()]
    count, trained = sum(n for n, _ in numbers), sum(n for n, is_trained in numbers if is_trained)
    part = "" if trained == count else f", {trained / 1e6:.2f} M of them trained"
    interrupts = Interrupts()
    precision = precision_of(torch.device(order.device), config.precision)
    shared = f", {ranks.num} processes" if ranks.num > 1 else ""
    say(f"{task.kind}: {count / 1e6:.2f} M parameters{part}, {precision} on {order.device}{shared}")
    board = Board(order.run_dir / "board" if config.tensorboard and ranks.is_first else None)
    hooks = [
        *(Log(say, board, show), Validation(say, board), Samples(board, say)),
        *(TimeLimit(), interrupts, Checkpoints(), Curves()),
    ]
    with catch_signals(interrupts):
        return train(
            task,
            config,
            order.run_dir,
            device=order.device,
            hooks=hooks,
            say=say,
            ranks=ranks,
        )


def _fitted(run: R, order: Order, build: Callable[[R], Task], say: Say) -> R:
    """Return the run with as many steps as fit into the minutes asked for."""
    assert order.minutes is not None
    started_s = time.monotonic()
    seconds = order.minutes * 60

    def left_s() -> float:
        return seconds - (time.monotonic() - started_s)

    num_steps = num_steps_for(build(run), run.train, order.device, left_s)
    say(f"{num_steps} steps fit into {order.minutes:g} minutes on this machine")
    return replace(run, train=replace(run.train, num_steps=num_steps))  # type: ignore[type-var]


def _document(kind: str, order: Order, run: Run, inputs: dict[str, str]) -> dict[str, Any]:
    """Return what config.json holds."""
    return {
        "kind": kind,
        "format": 1,
        "recipe": order.recipe,
        "inputs": inputs,
        "config": json.loads(json.dumps(config_to_dict(run))),
    }


def _store(kind: str, order: Order, run: Run, inputs: dict[str, str]) -> None:
    """Write the resolved config before anything is trained."""
    document = _document(kind, order, run, inputs)
    _write_json(order.run_dir / "config.json", document)


def _stored(kind: str, order: Order, asked: R, inputs: dict[str, str]) -> R | None:
    """Return the config of a run that was begun here; None for a new folder.

    Raises:
        ConfigError: it is another run than the one asked for.
    """
    path = order.run_dir / "config.json"
    if not path.is_file():
        if (order.run_dir / "checkpoints").exists():
            raise ConfigError(f"{order.run_dir} holds checkpoints but no config.json")
        return None
    try:
        old = json.loads(path.read_text())
        run = config_from_dict(type(asked), old["config"])
    except (ValueError, KeyError, TypeError, CheckpointError) as error:
        raise ConfigError(f"{path} is not the config of a {kind} run: {error}") from error
    new = _document(kind, order, asked, inputs)
    # With the fields that are younger than the file: their defaults are what held before them.
    old["config"] = _document(kind, order, run, inputs)["config"]
    begun, asked_for = _flat(old), _flat(new)
    left_out = [key for key in begun if key.startswith("inputs.") and key not in asked_for]
    different = [key for key in (*asked_for, *left_out) if begun.get(key) != asked_for.get(key)]
    if order.minutes is not None:
        # Measured when the run was begun; measuring again would end elsewhere.
        different = [key for key in different if key != "config.train.num_steps"]
    if different:
        raise ConfigError(
            f"{order.run_dir} was begun with another {', '.join(different)}: give the settings it "
            "was begun with, or another folder"
        )
    return run


def _say_baselines(task: Task, folder: Path, say: Say) -> None:
    """Count once what a model must beat, for tasks that know such a thing."""
    measure = getattr(task, "baselines", None)
    path = folder / "baselines.json"
    if measure is None or path.is_file():
        return
    values: dict[str, float] = measure()
    _write_json(path, values)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    say(f"to beat  {shown}" if values else "no held-out song: nothing will be measured")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one with dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(document, indent=2) + "\n")
    temporary.replace(path)
