"""``khala convert``: published weights become a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        "  khala generate --model khala-v1 --prompt pop --instrumental --out song.wav\n\n"
        "DIR is the download as it is: backbone/ and superresolution/ with their iter_* folders\n"
        "and a .ckpt file; or khala_backbone.safetensors, khala_superres.safetensors and\n"
        "decoder_weights.pt with their *_megatron_args.json. What is missing is said, the rest is\n"
        "converted; put the tokenizer.json of the weights into DIR to have it in the model too.\n\n"
        "Nothing in the files is run. Memory stays small; the disk needs room for the result.\n"
        "Stopped, the same command goes on with the part it was at. The published weights may not\n"
        "be used commercially (CC BY-NC 4.0), and a converted copy is still theirs."
    )
    parser.add_argument(
        "--from", dest="source", required=True, metavar="DIR", help="the downloaded weights"
    )
    parser.add_argument("--to", metavar="FOLDER", help="the model folder to write")
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
    from khala.convert.published import look

    source = look(Path(args.source))
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
