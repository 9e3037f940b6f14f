"""``khala verify``: is this song what its file says?"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from khala.commands.models import add_device_options, add_fetch_options, add_lora_option
from khala.commands.terminal import Stages, Terminal, add_output_options, stopping
from khala.song import Song

__all__ = ["add_verify", "run_verify"]

EXIT_DIFFERS = 1


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "examples:\n  khala verify song.khala\n"
        "  khala verify song.khala --lora runs/mine/adapter:0.8     made with an adapter\n\n"
        "Exit status 0: identical; 1: the song differs from what its request and seed give here."
    )
    parser.add_argument("song", metavar="SONG.khala", help="a saved song")
    parser.add_argument("--model", metavar="NAME", help="default: the song's own")
    add_fetch_options(parser)
    add_lora_option(parser)
    add_device_options(parser)
    add_output_options(parser)


def run_verify(args: argparse.Namespace) -> int:
    """Replay a song and say whether it came out the same."""
    terminal = Terminal.of(args)
    song = Song.load(args.song)
    from khala.commands.models import load_khala
    from khala.infer import replay

    with stopping(terminal) as stop, Stages(terminal=terminal) as stages:
        model = load_khala(
            args.model or song.model,
            args.device,
            args.lora,
            dtype=args.dtype or song.dtype,
            revision=args.revision,
            tokenizer=args.tokenizer,
            on_event=stages,
            should_stop=stop,
        )
        result = replay(model, song, on_event=stages, should_stop=stop)
    if result.other_models:
        terminal.line(f"made by another {' and '.join(result.other_models)} than those here")
    if result.identical:
        terminal.line(f"identical: all {result.num_codes} codes of {args.song} came out again")
    else:
        terminal.line(
            f"differs: {result.num_different} of {result.num_codes} codes, "
            f"first at level {result.first_level}, frame {result.first_frame}"
        )
    terminal.document({"song": args.song, **asdict(result)})
    return 0 if result.identical else EXIT_DIFFERS
