"""Work in machine code on several cores. Threads wait for nothing there but each other."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["has_compiler", "on_cores"]

Result = TypeVar("Result")


@functools.cache
def has_compiler() -> bool:
    """Whether numba is installed; it is not imported before it is needed."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def _pool() -> ThreadPoolExecutor:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not come along
    return ThreadPoolExecutor(thread_name_prefix="khala")


def on_cores(work: Callable[[int], Result], num: int) -> list[Result]:
    """Return ``work`` of every number below ``num``, on as many cores as torch may use."""
    num_cores = min(torch.get_num_threads(), num)
    if num_cores <= 1:
        return [work(each) for each in range(num)]

    def share(first: int) -> list[Result]:
        return [work(each) for each in range(first, num, num_cores)]

    others = [_pool().submit(share, first) for first in range(1, num_cores)]
    shares = [share(0), *(other.result() for other in others)]
    return [shares[each % num_cores][each // num_cores] for each in range(num)]
