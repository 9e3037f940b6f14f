"""What happens around the loop: the log, validation, checkpoints, limits, and the progress line.

A hook reads the state after each step; the only thing it may set is ``state.stopped``.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from khala.train.board import Board
from khala.train.checkpoints import CheckpointWriter
from khala.train.device import autocast
from khala.train.flops import matrix_ceiling
from khala.train.optim import lr_factor
from khala.train.standing import Show, Standing
from khala.train.state import TrainState

__all__ = [
    "Checkpoints",
    "Hook",
    "Interrupts",
    "Log",
    "TimeLimit",
    "Validation",
    "catch_signals",
    "clock",
    "measure_task",
]

Losses = dict[str, Tensor]
SAY_EVERY_S = 5.0
"""The log gets every line; the reader gets one now and then."""


class Hook:
    """Called before the first step, after every step, and once at the end."""

    def before(self, state: TrainState) -> None:
        """Look at the state a run starts or goes on from."""

    def after_step(self, state: TrainState, losses: Losses) -> None:
        """Look at the state after an update; ``state.step`` counts from 1 here."""

    def at_end(self, state: TrainState) -> None:
        """Look at the state when the loop has ended, for whatever reason."""


class Log(Hook):
    """RUN/log.jsonl: one line every few steps, and a short one for the reader.

    Lines past the checkpoint that a run goes on from are dropped, so no step stands there twice.
    """

    def __init__(
        self, say: Callable[[str], None], board: Board | None = None, show: Show | None = None
    ) -> None:
        """Write lines to the log and the board.

        Args:
            say: takes a short line every few seconds, if nothing is shown.
            board: takes every line.
            show: takes where the run is after every step.
        """
        self._say = say
        self._board = Board(None) if board is None else board
        self._show = show
        self._standing: Standing | None = None
        self._ceiling = 0.0
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._steps = 0
        self._said_s = -math.inf
        self._since: tuple[float, int, float] = (0.0, 0, 0.0)

    def before(self, state: TrainState) -> None:
        self._since = (state.seconds, state.num_items, state.flops)
        task = state.task
        self._standing = Standing(
            kind=task.kind, unit=task.unit, step=state.step, num_steps=state.config.num_steps
        )
        self._ceiling = matrix_ceiling(state.device, state.config.precision)
        path = log_path(state.folder)
        if path.is_file() and state.ranks.is_first:
            kept = [line for line in read_log(state.folder) if line["step"] <= state.step]
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            temporary.replace(path)

    def after_step(self, state: TrainState, losses: Losses) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1
        self._steps += 1
        if self._show is not None and self._standing is not None and state.ranks.is_first:
            left_s = self._standing.left_s
            if left_s is not None:
                left_s *= (state.config.num_steps - state.step) / max(
                    1, state.config.num_steps - self._standing.step
                )
            self._standing = replace(self._standing, step=state.step, left_s=left_s)
            self._show(self._standing)
        if state.step % state.config.log_every and state.step != state.config.num_steps:
            return
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        seconds, items = state.seconds - self._since[0], state.num_items - self._since[1]
        mfu = (state.flops - self._since[2]) / max(seconds, 1e-9) / self._ceiling
        steps = self._steps
        self._sums, self._counts, self._steps = {}, {}, 0
        self._since = (state.seconds, state.num_items, state.flops)
        line = {
            "step": state.step,
            **{name: round(value, 5) for name, value in means.items()},
            "grad_norm": round(state.grad_norm, 4),
            "lr": state.config.lr * lr_factor(state.step - 1, state.config),
            "per_s": round(items / max(seconds, 1e-9), 1),
            **({"mfu": round(mfu, 4)} if mfu else {}),
            "num_items": state.num_items,
            "seconds": round(state.seconds, 2),
        }
        if not state.ranks.is_first:
            return
        write_log(state.folder, line)
        self._board.numbers(state.step, {**means, "per_s": line["per_s"]}, group="train")
        left_s = (state.config.num_steps - state.step) * seconds / steps
        if self._show is not None and self._standing is not None:
            self._standing = replace(
                self._standing,
                losses=means,
                grad_norm=state.grad_norm,
                lr=float(line["lr"]),
                per_s=float(line["per_s"]),
                mfu=mfu,
                left_s=left_s,
            )
            self._show(self._standing)
            return
        now_s = time.monotonic()
        if now_s - self._said_s < SAY_EVERY_S and state.step != state.config.num_steps:
            return
        self._said_s = now_s
        self._say(
            f"step {state.step}/{state.config.num_steps}  loss {means['loss']:.4f}  "
            f"{line['per_s']:.0f} {state.task.unit}/s  "
            + (f"{mfu:.0%} of what the machine can  " if mfu else "")
            + f"{clock(left_s)} left"
        )


class Validation(Hook):
    """Measures the averaged weights on unseen songs, every so often and after the last step."""

    def __init__(self, say: Callable[[str], None], board: Board | None = None) -> None:
        self._say = say
        self._board = Board(None) if board is None else board
        self._last = -1

    def before(self, state: TrainState) -> None:
        if state.step == state.config.num_steps:  # a finished run: measured when it ended
            self._last = state.step

    def after_step(self, state: TrainState, losses: Losses) -> None:  # noqa: ARG002
        every = state.config.validate_every
        if every and state.step % every == 0:
            self._validate(state)

    def at_end(self, state: TrainState) -> None:
        if state.stopped is None and state.step != self._last:
            self._validate(state)

    def _validate(self, state: TrainState) -> None:
        self._last = state.step
        values = measure_task(state)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if not state.ranks.is_first:
            return
        write_log(
            state.folder, {"step": state.step, "seconds": round(state.seconds, 2), "valid": finite}
        )
        self._board.numbers(state.step, finite, group="valid")
        shown = "  ".join(f"{name} {value:.4g}" for name, value in finite.items())
        self._say(f"step {state.step} valid  {shown or 'nothing: no held-out song'}")


class Checkpoints(Hook):
    """Saves the run every few minutes and when it ends."""

    def __init__(self) -> None:
        self._saved_s = time.monotonic()
        self._writer = CheckpointWriter()

    def before(self, state: TrainState) -> None:  # noqa: ARG002
        self._saved_s = time.monotonic()

    def after_step(self, state: TrainState, losses: Losses) -> None:  # noqa: ARG002
        is_due = time.monotonic() - self._saved_s >= state.config.checkpoint_every_s
        if state.ranks.any(is_due):
            self._writer.save(state)
            self._saved_s = time.monotonic()

    def at_end(self, state: TrainState) -> None:
        self._writer.save(state)
        self._writer.wait()


class TimeLimit(Hook):
    """Stops a run after ``max_seconds`` of this start."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()

    def before(self, state: TrainState) -> None:  # noqa: ARG002
        self._started_s = time.monotonic()

    def after_step(self, state: TrainState, losses: Losses) -> None:  # noqa: ARG002
        limit_s = state.config.max_seconds
        if limit_s is not None and time.monotonic() - self._started_s >= limit_s:
            state.stopped = "time"


class Interrupts(Hook):
    """Stops a run at the end of a step when the process was asked to end."""

    def __init__(self) -> None:
        self.asked = False

    def after_step(self, state: TrainState, losses: Losses) -> None:  # noqa: ARG002
        if self.asked:
            state.stopped = "signal"


def measure_task(state: TrainState) -> dict[str, float]:
    """Validate with the averaged weights in place; the model is afterwards as it was."""
    model = state.task.model
    model.eval()
    try:
        with (
            state.average.applied(),
            torch.no_grad(),
            autocast(state.device, state.config.precision),
        ):
            return state.task.validate(state.step)
    finally:
        model.train()


@contextmanager
def catch_signals(interrupts: Interrupts) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a request to stop; a second one ends at once.

    Only the main thread may do this; elsewhere nothing is changed.
    """

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        interrupts.asked = True
        signal.signal(number, old[signal.Signals(number)])

    try:
        old = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        for number in old:
            signal.signal(number, ask)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def log_path(run: Path) -> Path:
    """Return where a run's log is."""
    return run / "log.jsonl"


def write_log(run: Path, line: Mapping[str, object]) -> None:
    """Add one line to a run's log."""
    with log_path(run).open("a") as file:
        file.write(json.dumps(line) + "\n")


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; one cut short by a killed process is left out."""
    lines: list[dict[str, Any]] = []
    for text in log_path(run).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def clock(seconds: float) -> str:
    """Return a time as 1:02:03 or 2:03."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
