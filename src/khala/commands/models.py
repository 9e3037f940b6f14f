"""Loading models for commands: the device is checked, and every mistake is one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from khala.errors import ConfigError
from khala.song import COMPAT_MODES

if TYPE_CHECKING:
    from khala.infer import Khala

__all__ = ["add_compat_option", "add_lora_option", "check_device", "load_khala"]


def check_device(device: str) -> str:
    """Return ``device`` if this computer has it; ConfigError says what it has."""
    import torch

    known = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if device.split(":")[0] not in known:
        raise ConfigError(f"--device {device!r}: this computer has {', '.join(known)}")
    return device


def add_lora_option(parser: argparse._ActionsContainer) -> None:
    """``--lora``, the same for every command that makes codes."""
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="DIR[:S]",
        help="an adapter trained from this model (RUN/adapter), and how strongly: 0 to 2 "
        "(default: 1); may be repeated",
    )


def add_compat_option(parser: argparse._ActionsContainer, *, default: str | None) -> None:
    """``--compat``, the same for every command that it means something to."""
    shown = "none" if default is not None else "as the song was made"
    parser.add_argument(
        "--compat",
        choices=COMPAT_MODES,
        default=default,
        help="published: as the published program does it, defects included, for comparison "
        f"(docs/published.md; default: {shown})",
    )


def load_khala(name: str, device: str, lora: Sequence[str] = ()) -> Khala:
    """Load a whole model folder, with adapters."""
    from khala.infer import Khala

    return Khala.from_pretrained(name, device=check_device(device), lora=lora)
