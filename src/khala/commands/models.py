"""Loading models for commands: the device is checked, and every mistake is one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from khala.errors import ConfigError

if TYPE_CHECKING:
    from khala.infer import Khala

__all__ = ["check_device", "load_khala"]


def check_device(device: str) -> str:
    """Return ``device`` if this computer has it; ConfigError says what it has."""
    import torch

    known = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if device.split(":")[0] not in known:
        raise ConfigError(f"--device {device!r}: this computer has {', '.join(known)}")
    return device


def load_khala(name: str, device: str) -> Khala:
    """Load a whole model folder."""
    from khala.infer import Khala

    return Khala.from_pretrained(name, device=check_device(device))
