"""What this machine can do at most, measured: the roofs that times are held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Ceilings", "best_of", "energy_joules", "measure_ceilings"]

RAPL = Path("/sys/class/powercap")
SIZE = 2048
"""Rows and columns of the matrices whose product is timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceilings:
    """Measured rates of one machine, with the threads it uses now."""

    read_gb_s: float
    """Reading memory that is in no cache."""

    read_weights_gb_s: float
    """Reading as many bytes as the backbone's weights have, again and again: from a cache, if they
    fit one."""

    float32_tflop_s: float
    bfloat16_tflop_s: float


def best_of(work: Callable[[], object], runs: int = 5) -> float:
    """Return the shortest time in seconds of some runs, after one that does not count."""
    work()
    times = []
    for _ in range(runs):
        started_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - started_s)
    return min(times)


def measure_ceilings(weight_bytes: int) -> Ceilings:
    """Measure for some seconds."""
    far = torch.ones(128 << 20)
    near = torch.ones(max(weight_bytes // 4, 1))
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        one, other = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
        rates[dtype] = 2 * SIZE**3 / best_of(lambda: one @ other) / 1e12  # noqa: B023
    return Ceilings(
        read_gb_s=far.numel() * 4 / best_of(far.sum) / 1e9,
        read_weights_gb_s=near.numel() * 4 / best_of(near.sum, 20) / 1e9,
        float32_tflop_s=rates[torch.float32],
        bfloat16_tflop_s=rates[torch.bfloat16],
    )


def energy_joules() -> float | None:
    """Return the energy that the processor's packages have used so far, None where nobody says.

    Linux lets only the administrator read it on most machines.
    """
    total = 0.0
    try:
        zones = [zone for zone in RAPL.glob("intel-rapl:?") if (zone / "energy_uj").is_file()]
        for zone in zones:
            total += int((zone / "energy_uj").read_text()) / 1e6
    except OSError:
        return None
    return total if zones else None
