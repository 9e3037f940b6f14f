"""What this computer has: devices, memory, and the numbers it computes with."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from khala.errors import ConfigError

__all__ = ["Machine", "check_device", "give_back", "look_at", "precise", "total_memory"]

LATER_BYTES = 220_000_000
"""What a process takes beyond torch, without weights: modules imported later, small buffers."""

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux says how much of the computer a container may use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What is known of a device before anything is loaded on it."""

    device: str
    """"cpu", "cuda", "cuda:N" or "mps"."""

    free_bytes: int | None
    """Memory that can still be had there; None where nobody says."""

    has_bfloat16: bool
    """Whether it multiplies bfloat16 faster than float32."""

    process_bytes: int = 500_000_000
    """Memory of this process beside any model; torch for a GPU takes twice that for a CPU alone."""

    @property
    def kind(self) -> str:
        """ "cpu", "cuda" or "mps"."""
        return self.device.split(":")[0]


def look_at(device: str) -> Machine:
    """Return what is known of a device, which must be there: see ``check_device``."""
    kind = device.split(":")[0]
    if kind == "cuda":
        free, bfloat16 = torch.cuda.mem_get_info(device)[0], torch.cuda.is_bf16_supported()
        return Machine(device=device, free_bytes=free, has_bfloat16=bfloat16)
    able = torch.cpu.get_capabilities() if kind == "cpu" else {}
    held = _held_memory()
    return Machine(
        device=device,
        free_bytes=_free_memory(),
        has_bfloat16=bool(able.get("avx512_bf16") or able.get("amx_bf16")),
        **({} if held is None else {"process_bytes": held + LATER_BYTES}),
    )


def check_device(device: str) -> str:
    """Return ``device`` if this computer has it.

    Raises:
        ConfigError: it has not; says what it has.
    """
    known = ["cpu"]
    if torch.cuda.is_available():
        known += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        known.append("mps")
    if device not in known:
        raise ConfigError(f"device {device!r}: this computer has {', '.join(known)}")
    return device


def give_back(device: str) -> None:
    """Return memory that was freed to the system, or to other programs on the GPU."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()
    elif sys.platform == "linux":
        # glibc keeps what was freed for itself
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def precise(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float64, on the CPU if its own device has none (Apple's GPUs)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def total_memory() -> int | None:
    """Return the bytes of memory of this computer, None where it does not say."""
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_memory() -> int | None:
    """Return the bytes that a process can take without anything being swapped or killed."""
    free = _numbers(Path("/proc/meminfo")).get("MemAvailable")
    if free is None:
        return total_memory()
    free *= 1024
    limit, used = (_number(CGROUP / f"memory.{name}") for name in ("max", "current"))
    if limit is not None and used is not None:
        # what is kept of files counts as used, and goes when it is needed
        stat = _numbers(CGROUP / "memory.stat")
        kept = stat.get("inactive_file", 0) + stat.get("active_file", 0)
        free = min(free, limit - used + kept)
    return free


def _held_memory() -> int | None:
    """Return the bytes that this process holds now, None where nobody says."""
    held = _numbers(Path("/proc/self/status")).get("VmRSS")
    return None if held is None else held * 1024


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def _numbers(path: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    lines = path.read_text().splitlines() if path.is_file() else []
    pairs = (line.replace(":", " ").split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}
