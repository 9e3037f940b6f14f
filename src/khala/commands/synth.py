"""``khala synth``: a demo corpus to train on."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from khala.commands.terminal import Counter, Terminal, add_output_options
from khala.errors import RequestError

__all__ = ["add_synth", "run_synth"]

MAX_HOURS = 10_000.0


def add_synth(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "examples:\n"
        "  khala synth --hours 1 --seed 1 --out corpus\n"
        "  khala synth --hours 0.1 --tiny --stems --out small\n\n"
        "Every song comes with its words, notes, beats, chords and sections. The same command\n"
        "goes on where it was stopped; the same seed writes the same songs."
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder of the corpus")
    parser.add_argument("--hours", type=float, default=1.0, metavar="H", help="default: 1")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a CPU)")
    parser.add_argument("--stems", action="store_true", help="also write voice and band alone")
    parser.add_argument("--tiny", action="store_true", help="short songs of few words, for tests")
    parser.add_argument("--soundfont", metavar="FILE", help="for the band (default: the system's)")
    parser.add_argument("--voices", metavar="DIR", help="voice banks (default: the user's cache)")
    add_output_options(parser)


def run_synth(args: argparse.Namespace) -> int:
    """Write a demo corpus."""
    terminal = Terminal.of(args)
    if not 0.0 < args.hours <= MAX_HOURS:
        raise RequestError(f"--hours is {args.hours:g}: more than 0 and up to {MAX_HOURS:g}")
    if not 0 <= args.seed < 2**63:
        raise RequestError(f"--seed is {args.seed}: 0 to {2**63 - 1}")
    workers = args.workers if args.workers is not None else max(os.cpu_count() or 1, 1)
    if not 1 <= workers <= 256:
        raise RequestError(f"--workers is {workers}: 1 to 256")
    from khala.synth import write_corpus

    with Counter(terminal=terminal) as count:
        num_songs = write_corpus(
            Path(args.out),
            hours=args.hours,
            seed=args.seed,
            workers=workers,
            stems=args.stems,
            tiny=args.tiny,
            progress=count,
            soundfont=None if args.soundfont is None else Path(args.soundfont),
            voices=None if args.voices is None else Path(args.voices),
        )
    terminal.line(f"{args.out}: {num_songs} songs, {args.hours:g} hours")
    terminal.document({"corpus": args.out, "num_songs": num_songs, "hours": args.hours})
    return 0
