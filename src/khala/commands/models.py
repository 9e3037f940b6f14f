"""Loading models for commands: the device is checked, and every mistake is one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from khala.infer import Khala

__all__ = ["add_device_options", "add_lora_option", "check_device", "load_khala"]


def check_device(device: str) -> str:
    """Return ``device`` if this computer has it; ConfigError says what it has."""
    from khala import machine

    return machine.check_device(device)


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


def add_device_options(parser: argparse._ActionsContainer) -> None:
    """``--device`` and ``--dtype``, the same for every command that makes codes."""
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="cpu (default), cuda, cuda:N or mps"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="what the language models compute in (default: weights stored in 16 bits stay so "
        "where the device is good at it, others are float32)",
    )


def load_khala(
    name: str, device: str, lora: Sequence[str] = (), *, dtype: str | None = None
) -> Khala:
    """Load a whole model folder, with adapters."""
    from khala.infer import Khala

    return Khala.from_pretrained(name, device=check_device(device), dtype=dtype, lora=lora)
