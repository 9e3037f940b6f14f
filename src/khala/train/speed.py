"""How many steps fit into some minutes: measured on this machine, with this task."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from khala.train.batches import Batches
from khala.train.hooks import measure_task
from khala.train.loop import forward_backward, update
from khala.train.start import resume_or_start
from khala.train.state import TrainConfig
from khala.train.task import Task

__all__ = ["num_steps_for"]

NUM_WARM = 2
NUM_TIMED = 12
SHARE_TIMED = 0.1
RESERVE = 0.97
"""Of the time: checkpoints and the export need some too."""


def num_steps_for(task: Task, config: TrainConfig, device: str, left_s: Callable[[], float]) -> int:
    """Return how many steps, with their validations, fit into the time that is left.

    The task is trained a few steps from the middle of its run, where nothing special happens, and
    must be thrown away afterwards.

    Args:
        task: a task of its own, not the one that will be trained.
        config: the loop's config.
        device: "cpu" or "cuda".
        left_s: tells the seconds left, measuring included.
    """
    middle = config.num_steps // 2
    probing = replace(config, num_steps=middle + NUM_WARM + NUM_TIMED)
    state = resume_or_start(task, probing, Path("/nonexistent"), device, lambda _: None)
    state.step = middle
    limit_s = SHARE_TIMED * left_s()
    timed, started_s = 0, time.monotonic()
    with Batches(task, probing, middle, state.device) as batches:
        for index in range(NUM_WARM + NUM_TIMED):
            if index == NUM_WARM:
                timed, started_s = 0, time.monotonic()
            update(state, forward_backward(state, batches)["loss"])
            timed += 1
            if index >= NUM_WARM and time.monotonic() - started_s > limit_s:
                break
    step_s = (time.monotonic() - started_s) / timed
    started_s = time.monotonic()
    measure_task(state)
    validation_s = time.monotonic() - started_s
    if config.validate_every:
        step_s += validation_s / config.validate_every
    return max(1, int((RESERVE * left_s() - validation_s) / step_s))
