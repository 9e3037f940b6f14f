"""``khala train``: a codec, a backbone or a super-resolution model from a named recipe."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from khala.commands.terminal import Terminal, add_output_options
from khala.commands.training_view import TrainingView
from khala.errors import RequestError

__all__ = ["add_train", "run_train"]

EPILOG = """\
examples:
  khala train codec nano --corpus corpus --out runs/codec --minutes 60
  khala prepare corpus --codec runs/codec/model --out codes
  khala train backbone nano-short --codes codes --codec runs/codec/model \\
                                  --out runs/words --minutes 30
  khala train backbone nano --codes codes --init runs/words/model \\
                            --out runs/backbone --minutes 60
  khala train superres nano --codes codes --init runs/backbone/model \\
                            --codec runs/codec/model --out runs/superres --minutes 60
  khala assemble --codec runs/codec/model --backbone runs/backbone/model \\
                 --superres runs/superres/model --out my-model
  khala train backbone debug --codes codes --out runs/try --set train.lr=1e-3

on your own songs, from a model that is there (see docs/training.md):
  khala prepare my-songs --codec nano --out my-codes
  khala train backbone nano-tune --codes my-codes --init nano --out runs/mine
  khala assemble --codec nano --backbone runs/mine/model --superres nano --out my-model
  khala train backbone nano-lora --codes my-codes --init nano --out runs/style --minutes 10
  khala generate --lora runs/style/adapter --instrumental --out song.wav

The resolved settings are written to RUN/config.json before the first step. The same command goes
on where a run was stopped (Ctrl-C, a killed process, the end of --minutes), bit for bit. The
trained model is in RUN/model, or what nano-lora has learned in RUN/adapter.
"""


def add_train(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("kind", choices=("codec", "backbone", "superres"), help="what to train")
    parser.add_argument(
        "recipe",
        nargs="?",
        default="nano",
        help="nano (default), debug, full; nano-short (backbone); nano-decoder, conv-debug (codec)"
        "; to go on from --init: nano-tune, or nano-lora for an adapter (backbone and superres)",
    )
    parser.add_argument("--out", required=True, metavar="RUN", help="the folder of the run")
    parser.add_argument("--corpus", metavar="DIR", help="songs, for the codec")
    parser.add_argument("--codes", metavar="DIR", help="written by khala prepare, for the others")
    parser.add_argument(
        "--init", metavar="DIR", help="a trained model to start from: 'nano' or a folder"
    )
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="tokenizer.json for a language model from nothing"
    )
    parser.add_argument("--drawn", metavar="DIR", help="written by khala redraw, for the codec")
    parser.add_argument("--codec", metavar="DIR", help="start the models' tables from it")
    parser.add_argument("--minutes", type=float, metavar="M", help="fit the run into this time")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting of the recipe; may be repeated",
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda")
    add_output_options(parser)


def run_train(args: argparse.Namespace) -> int:
    """Train, or go on training."""
    terminal = Terminal.of(args)
    if args.minutes is not None and not (math.isfinite(args.minutes) and args.minutes > 0):
        raise RequestError(f"--minutes is {args.minutes:g}: a number above 0")
    data = "corpus" if args.kind == "codec" else "codes"
    allowed = {
        "codec": {"corpus", "init", "drawn"},
        "backbone": {"codes", "init", "codec", "tokenizer"},
        "superres": {"codes", "init", "codec", "tokenizer"},
    }[args.kind]
    if getattr(args, data) is None:
        raise RequestError(f"khala train {args.kind} needs --{data} DIR")
    for name in ("corpus", "codes", "init", "codec", "drawn", "tokenizer"):
        if getattr(args, name) is not None and name not in allowed:
            raise RequestError(f"--{name} is not for khala train {args.kind}")
    from khala.train import run
    from khala.train.ranks import is_first_process

    more = {
        name: Path(value)
        for name in ("init", "codec", "drawn", "tokenizer")
        if (value := getattr(args, name))
    }
    with TrainingView(terminal) as view:
        folder = getattr(run, f"train_{args.kind}")(
            Path(getattr(args, data)),
            Path(args.out),
            args.recipe,
            args.overrides,
            minutes=args.minutes,
            device=args.device,
            on_message=view.note,
            on_step=view.step if view.is_live else None,
            **more,
        )
    if is_first_process():
        terminal.line(f"{folder.name} in {folder}")
        terminal.document({"kind": args.kind, "run": args.out, folder.name: str(folder)})
    return 0
