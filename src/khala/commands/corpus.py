"""``khala synth`` and ``khala prepare``: songs to train on, and their codes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from khala.commands.terminal import Counter, Terminal, add_output_options
from khala.errors import RequestError

__all__ = ["add_prepare", "add_synth", "run_prepare", "run_synth"]

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


def add_prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "examples:\n"
        "  khala prepare corpus --out codes\n"
        "  khala prepare my-songs --codec runs/codec/model --out codes\n\n"
        "A folder of your own: one song.wav (or .flac, .mp3, .opus) per song, and beside it an\n"
        "optional song.txt with its lyrics and song.json with its tags. Stopped and started again\n"
        "it goes on, and ends with the same bytes."
    )
    parser.add_argument("corpus", metavar="DIR", help="written by khala synth, or your own songs")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder of the codes")
    parser.add_argument(
        "--codec", default="nano", metavar="NAME", help="'nano' or a model folder (default: nano)"
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda")
    add_output_options(parser)


def run_prepare(args: argparse.Namespace) -> int:
    """Encode a folder of songs."""
    terminal = Terminal.of(args)
    from khala.commands.models import check_device
    from khala.corpus import open_codes, tokenise_corpus

    device = check_device(args.device)
    with Counter(terminal=terminal) as count:
        tokenise_corpus(
            args.corpus,
            args.codec,
            Path(args.out),
            device=device,
            progress=lambda done, total: count("songs", done, total),
        )
    codes = open_codes(Path(args.out))
    terminal.line(f"{args.out}: {len(codes)} songs encoded")
    terminal.document(
        {"codes": args.out, "num_songs": len(codes), "codec_digest": codes.codec_digest}
    )
    return 0
