"""Loading models for commands: the device is checked, and every mistake is one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from khala.song import COMPAT_MODES, DTYPES

if TYPE_CHECKING:
    from khala.infer import Khala
    from khala.infer.events import OnEvent, ShouldStop

__all__ = [
    "MODEL_HELP",
    "add_compat_option",
    "add_device_options",
    "add_fetch_options",
    "add_lora_option",
    "check_device",
    "load_khala",
]

MODEL_HELP = "'nano', a model folder, or a hub id (owner/name), which is fetched once"


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


def add_fetch_options(parser: argparse._ActionsContainer) -> None:
    """``--revision`` and ``--tokenizer``, for commands that may fetch a model."""
    parser.add_argument(
        "--revision", metavar="R", help="branch, tag or commit of a hub id (default: main, kept)"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="folder with tokenizer.json, that file, or a hub id, for weights without one",
    )


def add_device_options(parser: argparse._ActionsContainer) -> None:
    """``--device`` and ``--dtype``, the same for every command that makes codes."""
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="cpu (default), cuda, cuda:N or mps"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="what the language models compute in (default: weights stored in 16 bits stay so "
        "where the device is good at it; others are float32, and mixed, with super-resolution's "
        "products in bfloat16, where that is fast; small backbones stored in 8 bits are read in "
        "int8 where numba is installed, which is faster and as good)",
    )


def load_khala(
    name: str,
    device: str,
    lora: Sequence[str] = (),
    *,
    dtype: str | None = None,
    revision: str | None = None,
    tokenizer: str | None = None,
    on_event: OnEvent | None = None,
    should_stop: ShouldStop | None = None,
) -> Khala:
    """Load a whole model folder, with adapters; a hub id is fetched the first time."""
    from khala.infer import Khala

    return Khala.from_pretrained(
        name,
        revision=revision,
        tokenizer=tokenizer,
        device=check_device(device),
        dtype=dtype,
        lora=lora,
        on_event=on_event,
        should_stop=should_stop,
    )
