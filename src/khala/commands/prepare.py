"""``khala prepare``: songs to train on become checked shards of codes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from khala.commands.terminal import Counter, Terminal, add_output_options
from khala.errors import RequestError

if TYPE_CHECKING:
    from khala.corpus import Engine, Report

__all__ = ["add_prepare", "run_prepare"]

MOST_SHOWN = 10
"""Refused songs named on the terminal; all stand in the report."""


def add_prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "examples:\n"
        "  khala prepare corpus --out codes\n"
        "  khala prepare my-songs --codec runs/codec/model --out codes --workers 4\n"
        "  khala prepare songs.jsonl --out codes\n"
        "  khala prepare s3://bucket/songs --out s3://bucket/codes --ray auto\n\n"
        "A folder of your own: one audio file per song in any format, and beside song.mp3 an\n"
        "optional song.txt or song.lrc with its lyrics and song.json with its tags. A manifest\n"
        'has a line {"audio": "a/song.mp3", "lyrics": "...", "tags": "pop, piano"} a song, or the\n'
        "same as columns of a .csv. What cannot be learned from (damaged, cut short, silent, too\n"
        "short, there twice, no UTF-8) is left out and named in OUT/report.json. Stopped and\n"
        "started again it goes on, and ends with the same bytes."
    )
    parser.add_argument("source", metavar="SONGS", help="a folder, a manifest, or the URL of one")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder or URL of the codes")
    parser.add_argument(
        "--codec", default="nano", metavar="NAME", help="'nano' or a model folder (default: nano)"
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="a Ray cluster: auto, host:port, or local (extra [ray])"
    )
    parser.add_argument("--min-seconds", type=float, default=1.0, metavar="S", help="default: 1")
    parser.add_argument(
        "--max-seconds", type=float, default=1200.0, metavar="S", help="default: 1200"
    )
    parser.add_argument(
        "--keep-duplicates", action="store_true", help="take recordings that are there twice too"
    )
    add_output_options(parser)


def run_prepare(args: argparse.Namespace) -> int:
    """Check and encode songs."""
    terminal = Terminal.of(args)
    from khala.commands.models import check_device
    from khala.corpus import SongLimits, open_codes, tokenise_corpus

    device = check_device(args.device)
    engine = _engine(args, device)
    with Counter(terminal=terminal) as count:
        report = tokenise_corpus(
            args.source,
            args.codec,
            args.out,
            device=device,
            limits=SongLimits(min_s=args.min_seconds, max_s=args.max_seconds),
            keep_duplicates=args.keep_duplicates,
            engine=engine,
            progress=lambda done, total: count("songs", done, total),
        )
    codes = open_codes(args.out)
    _show(terminal, args.out, report)
    terminal.document(
        {
            "codes": args.out,
            "num_songs": report.num_songs,
            "hours": report.hours,
            "refused": report.by_reason(),
            "unused": list(report.unused),
            "codec_digest": codes.codec_digest,
        }
    )
    return 0


def _engine(args: argparse.Namespace, device: str) -> Engine | None:
    """Return who works; None is this process."""
    from khala.corpus import Processes, RayCluster

    if args.ray is not None:
        if args.workers != 1:
            raise RequestError("--ray and --workers are two ways to share the work: give one")
        return RayCluster(args.ray, gpus_per_job=0.0 if device == "cpu" else 1.0)
    return None if args.workers == 1 else Processes(args.workers)


def _show(terminal: Terminal, out: str, report: Report) -> None:
    """Say what was taken, and what was not and why."""
    terminal.line(f"{out}: {report.num_songs} songs, {report.hours:.2f} hours")
    if report.refused:
        reasons = ", ".join(f"{why} {count}" for why, count in report.by_reason().items())
        terminal.line(f"{len(report.refused)} refused ({reasons}):")
        for one in report.refused[:MOST_SHOWN]:
            terminal.line(f"  {one.id}: {one.detail}")
        if len(report.refused) > MOST_SHOWN:
            terminal.line(f"  ... all are in {out}/report.json")
    if report.unused:
        shown = ", ".join(report.unused[:MOST_SHOWN])
        terminal.line(f"{len(report.unused)} texts belong to no song: {shown}")
