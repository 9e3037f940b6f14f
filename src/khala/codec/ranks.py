"""What several processes that train one codec must agree on, bit for bit.

Each process sees other crops. Codebooks are no parameters, so no wrapper averages them: their
counts and sums are added up here, and what is drawn or fitted once comes from the first process.
With one process, or without ``torch.distributed``, every function gives back what it was given.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed

__all__ = ["add_up", "average", "copy_first", "is_first"]


def add_up(tensor: Tensor) -> Tensor:
    """Replace a tensor by its sum over all processes, in place; return it.

    Every process gets the same bits: each element is added up in one place and handed round.
    """
    if _num_processes() > 1:
        distributed.all_reduce(tensor)
    return tensor


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replace tensors of one dtype and device by their means over all processes, in place."""
    members = list(tensors)
    if _num_processes() == 1 or not members:
        return
    together = add_up(torch.cat([tensor.flatten() for tensor in members]))
    together /= _num_processes()
    sizes = [tensor.numel() for tensor in members]
    for tensor, mean in zip(members, torch.split(together, sizes), strict=True):
        tensor.copy_(mean.view_as(tensor))


@torch.no_grad()
def copy_first(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of the first process, in place."""
    if _num_processes() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def is_first() -> bool:
    """Tell whether this is the process that fits what all of them use."""
    return _num_processes() == 1 or distributed.get_rank() == 0


def _num_processes() -> int:
    """Return how many processes train together."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 1
    return distributed.get_world_size()
