"""``khala bench``: how fast this computer makes songs, and what that is worth."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from khala.commands.terminal import Terminal, add_output_options
from khala.errors import ConfigError

__all__ = ["add_bench", "run_bench"]

WIDTH = 160
"""Of tables that go to a file or a pipe."""


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "examples:\n"
        "  khala bench                                   the bundled model, a minute or two\n"
        "  khala bench --lengths 10,30,60,120 --batches 1,2,4 --out report\n"
        "  khala bench --model small --stages decode,superres      random weights, 130,304 ids\n\n"
        "Beside our own times stand those of a plain implementation with the published program's\n"
        "habits, run in turns with ours, and the floors: bytes and operations at the rates that\n"
        "this computer reaches. Ratios mean something on any computer, seconds only on one."
    )
    parser.add_argument(
        "--model", default="nano", metavar="NAME",
        help="'nano', a model folder, or random weights: small, full",
    )  # fmt: skip
    parser.add_argument(
        "--stages", default="decode,superres,codec,song", metavar="LIST", help="what is timed"
    )
    parser.add_argument("--duration", type=float, default=30.0, metavar="S", help="default: 30")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="of each arm (default: 5)")
    parser.add_argument("--lengths", metavar="LIST", help="also songs of these seconds, 30,60,120")
    parser.add_argument("--batches", metavar="LIST", help="also so many songs at a time, 1,2,4")
    parser.add_argument("--threads", type=int, metavar="N", help="default: torch's own choice")
    parser.add_argument("--out", type=Path, metavar="DIR", help="bench.json and .html go here")
    add_output_options(parser)


def run_bench(args: argparse.Namespace) -> int:
    """Measure, show and keep."""
    terminal = Terminal.of(args)
    from rich.console import Console

    from khala.evals.report import print_result
    from khala.evals.speed.run import STAGES, BenchSettings
    from khala.evals.speed.run import run_bench as measure

    stages = tuple(args.stages.split(","))
    if args.model in ("small", "full") and stages == STAGES:
        stages = STAGES[:-1]
    settings = BenchSettings(
        model=args.model,
        stages=stages,
        duration_s=args.duration,
        runs=args.runs,
        lengths_s=numbers("--lengths", args.lengths),
        batches=tuple(int(value) for value in numbers("--batches", args.batches)),
        threads=args.threads,
    )
    arguments = {
        name: getattr(args, name)
        for name in ("model", "stages", "duration", "runs", "lengths", "batches", "threads")
    }
    result = measure(settings, out=args.out, arguments=arguments, on_message=terminal.note)
    if not args.json:
        print_result(Console(width=None if sys.stdout.isatty() else WIDTH), result)
    terminal.document(result)
    return 0


def numbers(option: str, text: str | None) -> tuple[float, ...]:
    """Return the numbers of a list with commas.

    Raises:
        ConfigError: something of it is no number.
    """
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise ConfigError(f"{option} is {text!r}: numbers with commas, such as 1,2,4") from error
