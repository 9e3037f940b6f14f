"""``khala refine``: more levels for a song, or other ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from khala.commands.generate import finish_song
from khala.commands.models import add_device_options, add_fetch_options, add_lora_option
from khala.commands.outputs import check_files, name_files
from khala.commands.terminal import Stages, Terminal, add_output_options, stopping
from khala.errors import Cancelled, RequestError
from khala.song import Song

__all__ = ["add_refine", "run_refine"]

EPILOG = """\
examples:
  khala refine sketch.khala --levels 64 --out song.wav            finish a sketch
  khala refine song.khala --seed 3 --keep 2 --out other.wav       the same sketch, other details

Finishing a sketch later gives the same bytes as making all levels at once.
"""


def add_refine(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("song", metavar="SONG.khala", help="a saved song")
    parser.add_argument("--levels", type=int, default=64, metavar="K", help="to have (default: 64)")
    parser.add_argument("--seed", type=int, metavar="N", help="for the new levels")
    parser.add_argument("--keep", type=int, metavar="K", help="levels to keep (default: all)")
    parser.add_argument("--out", required=True, metavar="FILE", help=".wav, .flac, .mp3 or .opus")
    parser.add_argument("--plot", action="store_true", help="also draw waveform, mel and sections")
    parser.add_argument("--model", metavar="NAME", help="default: the song's own")
    add_fetch_options(parser)
    add_lora_option(parser)
    add_device_options(parser)
    add_output_options(parser)


def run_refine(args: argparse.Namespace) -> int:
    """Refine and save a song."""
    terminal = Terminal.of(args)
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise RequestError(f"--seed is {args.seed}: 0 to {2**63 - 1}")
    song = Song.load(args.song)
    (files,) = name_files(args.out, num_songs=1, plot=args.plot)
    check_files([files], duration_s=song.duration_s)
    loses = args.keep is not None and args.keep < song.num_levels
    if loses and files.song.resolve() == Path(args.song).resolve():
        raise RequestError(f"--out {args.out!r} would replace {args.song!r}; give another name")
    from khala.commands.models import load_khala

    with stopping(terminal) as stop, Stages(terminal=terminal) as stages:
        made = None if song.ended == "recording" else song.dtype
        model = load_khala(
            args.model or song.model,
            args.device,
            args.lora,
            dtype=args.dtype or made,
            revision=args.revision,
            tokenizer=args.tokenizer,
            on_event=stages,
            should_stop=stop,
        )
        if args.plot:
            from khala.infer.plot import check_plot

            check_plot()
        try:
            refined = model.refine(
                song,
                levels=args.levels,
                seed=args.seed,
                keep_levels=args.keep,
                on_event=stages,
                should_stop=stop,
            )
        except Cancelled as cancelled:
            part = cancelled.finished
            if not isinstance(part, Song):
                raise
            finish_song(model, part, files, terminal, stages)
            raise Cancelled(
                f"{cancelled}; saved {part.num_levels} levels as {files.audio}"
            ) from cancelled
        result = finish_song(model, refined, files, terminal, stages)
    terminal.document({"songs": [result], "stopped": False})
    return 0
