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
from khala.train.ranks import ALONE, Ranks
from khala.train.start import resume_or_start
from khala.train.state import TrainConfig, TrainState
from khala.train.task import Task

__all__ = ["forward_backward", "train", "update"]


def train(
    task: Task, config: TrainConfig, folder: Path, *, device: str = "cpu",
    hooks: Sequence[Hook] = (), say: Callable[[str], None] = lambda _: None, ranks: Ranks = ALONE,
) -> TrainState:  # fmt: skip
    """Train until ``config.num_steps``, or until a hook says stop; resume if there is a checkpoint.

    Raises:
        StageError: a loss or gradient was not finite; the weights were not moved.
        CheckpointError: the folder's checkpoints are damaged or of another model.
    """
    state = resume_or_start(task, config, folder, device, say, ranks)
    for hook in hooks:
        hook.before(state)
    with Batches(task, config, state.step, state.device, ranks) as batches:
        while state.step < config.num_steps and state.stopped is None:
            started_s = time.monotonic()
            losses = forward_backward(state, batches)
            if not update(state, losses["loss"]):
                say(f"step {state.step - 1} skipped: loss or gradient not finite")
                losses = {"skipped": torch.ones(())}
            state.seconds += time.monotonic() - started_s
            for hook in hooks:
                hook.after_step(state, losses)
            if ranks.any(state.stopped is not None):
                state.stopped = state.stopped or "another process"
    for hook in hooks:
        hook.at_end(state)
    return state


def forward_backward(state: TrainState, batches: Batches) -> dict[str, Tensor]:
    """Add up the gradients of every part of a step; return the losses, averaged over parts."""
    seen: dict[str, list[Tensor]] = {}
    num_items = 0
    for part in state.ranks.own_parts(state.config.num_parts):
        batch = batches.take(state.step, part)
        with autocast(state.device, state.config.precision):
            losses = state.task.losses(batch, state.step)
        (losses["loss"] / state.config.num_parts).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            seen.setdefault(name, []).append(value.detach().float())
        num_items += state.task.num_items(batch)
        state.flops += state.task.num_flops(batch)
    state.ranks.add_gradients(state.optimiser.parameters.values())
    state.last_step_items = int(state.ranks.add(torch.tensor(num_items)))
    return state.ranks.means(seen)


def update(state: TrainState, loss: Tensor) -> bool:
    """Clip, move the weights and their average; do neither for a number that is not finite.

    Returns:
        whether they were moved.

    Raises:
        StageError: such a number came, and the policy is to stop, or it came too often.
    """
    norm = state.optimiser.clip(state.ranks)
    state.grad_norm, beside = float(norm), state.task.clip()
    if not bool(torch.isfinite(loss + norm + beside)):
        _refuse(state, loss, norm + beside)
        state.optimiser.zero_grad()
        state.task.forget()
        state.step += 1
        return False
    state.num_skipped = 0
    state.optimiser.step(state.step)
    state.step += 1
    state.num_items += state.last_step_items
    state.average.update(state.step)
    state.task.after_update(state.step)
    return True


def _refuse(state: TrainState, loss: Tensor, norm: Tensor) -> None:
    """Count a step that is skipped, or stop."""
    message = f"step {state.step}: loss {loss.item()}, gradient norm {norm.item()}: not finite"
    state.num_skipped += 1
    if state.config.on_nonfinite == "skip" and state.num_skipped <= state.config.max_skipped:
        return
    often = f" ({state.num_skipped} in a row)" if state.num_skipped > 1 else ""
    raise StageError(
        f"{message}{often}; the weights were not moved. Lower the learning rate and start again "
        "from the last checkpoint",
        stage=f"train {state.task.kind}",
    )
