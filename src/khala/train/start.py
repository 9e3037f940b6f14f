"""Beginning a run, or going on with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from khala.train.checkpoints import load_newest
from khala.train.device import precision_of
from khala.train.ema import WeightAverage
from khala.train.optim import Optimiser
from khala.train.ranks import ALONE, Ranks, shard_layers
from khala.train.recompute import recompute_layers
from khala.train.state import TrainConfig, TrainState
from khala.train.task import Task

__all__ = ["resume_or_start"]


def resume_or_start(
    task: Task,
    config: TrainConfig,
    folder: Path,
    device: str,
    say: Callable[[str], None],
    ranks: Ranks = ALONE,
) -> TrainState:
    """Build the state of a run on a device, from its newest whole checkpoint if it has one."""
    task.to(torch.device(device))
    task.model.train()
    if config.recompute:
        recompute_layers(task.model)
    if config.sharding == "layers":
        fast = precision_of(torch.device(device), config.precision) == "bfloat16"
        shard_layers(task.model, ranks, bfloat16=fast and device != "cpu")
    if config.compile:
        task.compile()
    state = TrainState(
        task=task,
        config=config,
        optimiser=Optimiser(task, config),
        average=WeightAverage(task.model, config.ema_decay),
        device=torch.device(device),
        folder=folder,
        ranks=ranks,
    )
    load_newest(state, say)
    return state
