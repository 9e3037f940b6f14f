"""``khala redraw``: fine levels as super-resolution draws them."""

from __future__ import annotations

import argparse
from pathlib import Path

from khala.commands.terminal import Counter, Terminal, add_output_options

__all__ = ["add_redraw", "run_redraw"]

EPILOG = """\
examples:
  khala redraw codes --model runs/superres/model --songs 64 --out drawn
  khala train codec nano-decoder --corpus corpus --init runs/codec/model --drawn drawn \\
                                 --set task.drawn=0.4 --out runs/decoder

The coarse levels stay those of the recordings; a decoder that is trained on the result beside the
recordings learns what to believe of a generated song. The codes of every song stay valid. Stopped
and started again it goes on.
"""


def add_redraw(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("codes", metavar="CODES", help="written by khala prepare")
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="'nano', or a folder with superres/"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder of the drawn codes")
    parser.add_argument("--songs", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda")
    add_output_options(parser)


def run_redraw(args: argparse.Namespace) -> int:
    """Draw the fine levels of some songs."""
    terminal = Terminal.of(args)
    from khala.commands.models import check_device
    from khala.corpus import open_codes
    from khala.train.redraw import redraw

    device = check_device(args.device)
    with Counter(terminal=terminal) as count:
        redraw(
            Path(args.codes),
            Path(args.model),
            Path(args.out),
            songs=args.songs,
            seed=args.seed,
            device=device,
            progress=lambda done, total: count("songs", done, total),
        )
    drawn = len(open_codes(args.out))
    terminal.line(f"{args.out}: {drawn} songs drawn")
    terminal.document({"codes": args.out, "songs": drawn, "model": args.model, "seed": args.seed})
    return 0
