"""What a machine computes fastest, decided once and out loud."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from khala.errors import ConfigError
from khala.machine import look_at

__all__ = ["autocast", "check_device", "precision_of"]


def precision_of(device: torch.device, asked: str) -> str:
    """Return "bfloat16" or "float32" for what was asked on this hardware."""
    if asked != "auto":
        return asked
    return "bfloat16" if look_at(str(device)).has_bfloat16 else "float32"


def autocast(device: torch.device, asked: str) -> AbstractContextManager[object]:
    """Return the context in which losses are computed."""
    if precision_of(device, asked) == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def check_device(name: str) -> str:
    """Return ``name`` if it can be used here.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    if name not in ("cpu", "cuda") and not name.startswith("cuda:"):
        raise ConfigError(f"no device {name!r}: cpu, cuda or cuda:N")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, but torch sees no GPU here")
    return name
