"""Batches one ahead of the model: built in a thread while the device is busy."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from khala.train.ranks import ALONE, Ranks
from khala.train.state import TrainConfig
from khala.train.task import Batch, Task

__all__ = ["Batches", "on_device"]

AHEAD = 3


class Batches:
    """The batches of a run in order. What they hold depends only on (step, part)."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        first_step: int,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self._task = task
        self._device = device
        self._parts = ranks.own_parts(config.num_parts)
        self._end = config.num_steps * len(self._parts)
        self._next = first_step * len(self._parts)
        self._waiting: dict[int, Future[Batch]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="khala-batches")

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, step: int, part: int) -> Batch:
        """Return one of this process's parts of a step's batch on the device."""
        place = step * len(self._parts) + self._parts.index(part)
        self._next = max(self._next, place)
        while self._next < min(place + AHEAD, self._end):
            next_step, turn = divmod(self._next, len(self._parts))
            asked = self._pool.submit(self._task.batch, next_step, self._parts[turn])
            self._waiting[self._next] = asked
            self._next += 1
        return on_device(self._waiting.pop(place).result(), self._device)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch with its tensors on a device."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
