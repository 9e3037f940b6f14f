"""``khala assemble``: trained parts become one model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from khala.commands.models import add_lora_option
from khala.commands.terminal import Terminal, add_output_options

__all__ = ["add_assemble", "run_assemble"]


def add_assemble(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "examples:\n"
        "  khala assemble --codec runs/codec/model --backbone runs/backbone/model \\\n"
        "                 --superres runs/superres/model --out my-model\n"
        "  khala assemble --codec nano --backbone nano --superres nano \\\n"
        "                 --lora runs/style/adapter --out my-style          an adapter, for good\n"
        "  khala generate --model my-model --instrumental --out song.wav\n\n"
        "Every part is verified, and all of them are checked to speak the same alphabet."
    )
    for part in ("codec", "backbone", "superres"):
        parser.add_argument(f"--{part}", required=True, metavar="DIR", help=f"a trained {part}")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="a folder that is not there yet"
    )
    parser.add_argument(
        "--compact", action="store_true", help="store the two language models as int8 rows"
    )
    add_lora_option(parser)
    add_output_options(parser)


def run_assemble(args: argparse.Namespace) -> int:
    """Copy, verify, write the manifest."""
    terminal = Terminal.of(args)
    from khala.infer.assemble import assemble_model

    digest = assemble_model(
        codec=Path(args.codec),
        backbone=Path(args.backbone),
        superres=Path(args.superres),
        out=Path(args.out),
        compact=args.compact,
        lora=args.lora,
    )
    terminal.line(f"{args.out}: a whole model; try khala generate --model {args.out}")
    terminal.document({"model": args.out, "digest": digest})
    return 0
