"""The training loop: take a batch, measure the error, move the weights, tell the hooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from khala.errors import StageError
from khala.train.batches import Batches
from khala.train.device import autocast
from khala.train.hooks import Hook
from khala.train.start import resume_or_start
from khala.train.state import TrainConfig, TrainState
from khala.train.task import Task

__all__ = ["forward_backward", "train", "update"]


def train(
    task: Task, config: TrainConfig, folder: Path, *, device: str = "cpu",
    hooks: Sequence[Hook] = (), say: Callable[[str], None] = lambda _: None,
) -> TrainState:  # fmt: skip
    """Train until ``config.num_steps``, or until a hook says stop; resume if there is a checkpoint.

    Raises:
        StageError: a loss or gradient was not finite; the weights were not moved.
        CheckpointError: the folder's checkpoints are damaged or of another model.
    """
    state = resume_or_start(task, config, folder, device, say)
    for hook in hooks:
        hook.before(state)
    with Batches(task, config, state.step, state.device) as batches:
        while state.step < config.num_steps and state.stopped is None:
            started_s = time.monotonic()
            losses = forward_backward(state, batches)
            update(state, losses["loss"])
            state.seconds += time.monotonic() - started_s
            for hook in hooks:
                hook.after_step(state, losses)
    for hook in hooks:
        hook.at_end(state)
    return state


def forward_backward(state: TrainState, batches: Batches) -> dict[str, Tensor]:
    """Add up the gradients of every part of a step; return the losses, averaged over parts."""
    seen: dict[str, list[Tensor]] = {}
    state.last_step_items = 0
    for part in range(state.config.num_parts):
        batch = batches.take(state.step, part)
        with autocast(state.device, state.config.precision):
            losses = state.task.losses(batch, state.step)
        (losses["loss"] / state.config.num_parts).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            seen.setdefault(name, []).append(value.detach().float())
        state.last_step_items += state.task.num_items(batch)
    return {name: torch.stack(values).mean() for name, values in seen.items()}


def update(state: TrainState, loss: Tensor) -> None:
    """Clip, move the weights and their average; refuse to move for a number that is not finite."""
    norm = state.optimiser.clip()
    if not bool(torch.isfinite(loss + norm)):
        message = f"step {state.step}: loss {loss.item()}, gradient norm {norm.item()}: not finite"
        raise StageError(
            f"{message}; the weights were not moved. Lower the learning rate and start again from "
            "the last checkpoint", stage=f"train {state.task.kind}",
        )  # fmt: skip
    state.grad_norm = float(norm)
    state.optimiser.step(state.step)
    state.step += 1
    state.num_items += state.last_step_items
    state.average.update(state.step)
    state.task.after_update(state.step)
