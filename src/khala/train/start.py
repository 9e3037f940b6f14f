"""Beginning a run, or going on with one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from khala.errors import ConfigError
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
        _check_compiler()
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


def _check_compiler() -> None:
    """Raise ConfigError where torch.compile would end in a traceback of its own."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "c++"]
    if os.name == "posix" and not any(shutil.which(name) for name in names):
        raise ConfigError(
            f"train.compile needs a C++ compiler, and there is no {' or '.join(names)} here: "
            "install one, or leave train.compile false"
        )
