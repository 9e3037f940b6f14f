"""``khala convert``: published weights become a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from khala.commands.models import add_fetch_options
from khala.commands.terminal import Counter, Terminal, add_output_options
from khala.errors import RequestError

if TYPE_CHECKING:
    from khala.convert.published import Source

__all__ = ["add_convert", "run_convert"]

NAMES = {"codec": "codec", "backbone": "backbone", "superres": "super-resolution"}


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "examples:\n"
        "  khala convert --from Khala-MusicGeneration-v1.0 --check     look, write nothing\n"
        "  khala convert --from Khala-MusicGeneration-v1.0 --to khala-v1 --dtype bfloat16\n"
        "  khala convert --from liujiafeng/Khala-MusicGeneration-v1.0 --tokenizer Llama-3.1-8B \\\n"
        "                --to khala-v1 --dtype bfloat16                  download it, too\n"
        "  khala generate --model khala-v1 --prompt pop --instrumental --out song.wav\n\n"
        "WEIGHTS is a hub id (the authors' one has about 19 GB), or the folder of a download as\n"
        "it is: backbone/ and superresolution/ with their iter_* folders and a .ckpt file; or\n"
        "khala_backbone.safetensors, khala_superres.safetensors and decoder_weights.pt with\n"
        "their *_megatron_args.json. What is missing is said, the rest is converted. The\n"
        "tokenizer is that of Llama 3.1, which comes with neither: name a folder that has its\n"
        "tokenizer.json, or a hub id, with --tokenizer.\n\n"
        "Nothing in the files is run. Memory stays small; the disk needs room for the result.\n"
        "Stopped, the same command goes on with the part it was at. The published weights may not\n"
        "be used commercially (CC BY-NC 4.0), and a converted copy is still theirs."
    )
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="WEIGHTS",
        help="a folder with downloaded weights, or a hub id",
    )
    parser.add_argument("--to", metavar="FOLDER", help="the model folder to write")
    add_fetch_options(parser)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="numbers of the two language models (default: as they are stored)",
    )
    parser.add_argument(
        "--check", action="store_true", help="say what is there and what differs; write nothing"
    )
    add_output_options(parser)


def run_convert(args: argparse.Namespace) -> int:
    """Look, then write."""
    terminal = Terminal.of(args)
    if args.to is None and not args.check:
        raise RequestError("give --to FOLDER, or --check to look only")
    from khala.convert import conversion

    with Counter(terminal=terminal) as count:
        source = _find(args, terminal, count)
    dtype = None if args.dtype is None else conversion.DTYPES[args.dtype]
    report = conversion.describe(source, dtype)
    if args.check:
        _show_check(terminal, source, report)
        return 0
    folder = Path(args.to)
    with Counter(terminal=terminal) as count:
        states = conversion.convert(source, folder, dtype=dtype, on_progress=count)
    for kind, state in states.items():
        report["parts"][kind]["state"] = state
    report["missing"] = conversion.missing_in(folder, source)
    for kind, part in report["parts"].items():
        terminal.line(
            f"{NAMES[kind]}: {part['state']}, {len(part['tensors'])} tensors, "
            f"{part['bytes'] / 1e9:.2f} GB; {len(part['skipped'])} entries skipped"
        )
        for note in part["notes"]:
            terminal.line(f"  note: {note}")
    if report["missing"]:
        terminal.line(f"missing for a whole model: {', '.join(report['missing'])}")
        terminal.line(f"{folder}: every tensor is listed in conversion.json")
    else:
        terminal.line(f"{folder}: a whole model; try khala generate --model {folder}")
    terminal.document({"model": str(folder), **report})
    return 0


def _find(args: argparse.Namespace, terminal: Terminal, count: Counter) -> Source:
    """Return what a folder holds, or what a hub has after it was downloaded."""
    from khala import hub
    from khala.convert import fetch
    from khala.convert.published import look

    if hub.is_hub_id(args.source):
        return fetch.fetch_source(
            args.source,
            revision=args.revision,
            tokenizer=args.tokenizer,
            on_progress=count,
            on_note=terminal.note,
        )
    if args.revision is not None:
        raise RequestError(f"--revision is for a hub id, and --from {args.source!r} is none")
    chosen = None if args.tokenizer is None else fetch.find_tokenizer(args.tokenizer)
    return look(Path(args.source), tokenizer=chosen)


def _show_check(terminal: Terminal, source: Source, report: dict[str, Any]) -> None:
    """Say what is there, tensor by tensor, and how it compares with what was expected."""
    from khala.checkpoint import config_to_dict
    from khala.convert.expectations import compare

    facts = compare(source)
    for kind, part in report["parts"].items():
        terminal.line(f"{NAMES[kind]}: {part['source']}")
        for name, tensor in part["tensors"].items():
            made_from = f"{tensor['from'][0]}" + (" ..." if len(tensor["from"]) > 1 else "")
            terminal.line(f"  {name} {tensor['shape']} {tensor['dtype']} <- {made_from}")
        for name, why in part["skipped"].items():
            terminal.line(f"  skipped: {name}: {why}")
        for note in part["notes"]:
            terminal.line(f"  note: {note}")
        for fact in facts:
            if fact.part == kind:
                terminal.line(f"  {_sentence(fact.what, fact.expected, fact.found, fact.agrees)}")
    if source.missing:
        terminal.line(f"missing for a whole model: {', '.join(source.missing)}")
    listed = [
        {
            "part": fact.part,
            "what": fact.what,
            "expected": _plain(fact.expected, config_to_dict),
            "found": _plain(fact.found, config_to_dict),
            "agrees": fact.agrees,
        }
        for fact in facts
    ]
    terminal.document({**report, "facts": listed})


def _sentence(what: str, expected: object, found: object, agrees: bool | None) -> str:
    if agrees is None:
        return f"found: {what}: {found} (nothing was known)"
    if agrees:
        return f"as expected: {what}: {found}"
    return f"DIFFERS: {what}: {found}, expected {expected}"


def _plain(value: object, to_dict: Any) -> Any:
    return to_dict(value) if hasattr(value, "__dataclass_fields__") else value
