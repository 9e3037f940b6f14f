"""Beginning a run, or going on with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from khala.train.checkpoints import load_newest
from khala.train.ema import WeightAverage
from khala.train.optim import Optimiser
from khala.train.state import TrainConfig, TrainState
from khala.train.task import Task

__all__ = ["resume_or_start"]


def resume_or_start(
    task: Task, config: TrainConfig, folder: Path, device: str, say: Callable[[str], None]
) -> TrainState:
    """Build the state of a run on a device, from its newest whole checkpoint if it has one."""
    task.to(torch.device(device))
    task.model.train()
    if config.compile:
        task.compile()
    state = TrainState(
        task=task,
        config=config,
        optimiser=Optimiser(task, config),
        average=WeightAverage(task.model, config.ema_decay),
        device=torch.device(device),
        folder=folder,
    )
    load_newest(state, say)
    return state
