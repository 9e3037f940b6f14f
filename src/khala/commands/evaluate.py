"""``khala eval``: each kind of measurement has its own arguments, read from its dataclass."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import sys
import types
import typing
from pathlib import Path
from typing import Any

from khala.commands.parsing import Parser, unknown_word
from khala.commands.terminal import Terminal, add_output_options
from khala.errors import KhalaError

__all__ = ["add_eval", "run_eval"]

KINDS = ("codec", "backbone", "superres", "model", "songs", "recogniser", "tagger", "compare")
"""The keys of khala.evals.EVALS, known here without loading torch."""


FILE_COLUMNS = 200
"""Width of tables that go to a file or a pipe."""


def add_eval(parser: argparse.ArgumentParser) -> None:
    """Declare the options; those of a kind are declared when it is known."""
    parser.epilog = (
        "examples:\n"
        "  khala eval codec --model nano --corpus corpus --out results\n"
        "  khala eval backbone --model nano --codes codes\n"
        "  khala eval songs my-songs --recogniser ear     any folder of audio\n"
        "  khala eval tagger --corpus corpus --tagger tagger\n"
        "  khala eval songs my-songs --tagger tagger --reference originals\n"
        "  khala eval compare before/songs.json after/songs.json\n"
        "  khala eval codec --help        the arguments of one kind\n\n"
        "Each prints tables and, with --out, writes KIND.json with date, hardware and command."
    )
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its arguments: KIND --help")


def run_eval(args: argparse.Namespace) -> int:
    """Measure one thing."""
    from khala.evals import EVALS, print_result

    chosen = EVALS[args.kind]
    about = (inspect.getdoc(chosen.run) or "").split("\n")[0]
    parser = Parser(prog=f"khala eval {args.kind}", description=about)
    fields = declare(parser, chosen.arguments)
    add_output_options(parser)
    known, unknown = parser.parse_known_args(args.rest)
    if unknown:
        raise unknown_word(parser, unknown[0])
    terminal = Terminal.of(known)
    values = {name: getattr(known, name) for name in fields}
    result = chosen.run(**values, on_message=terminal.note)
    if not terminal.json:
        from rich.console import Console

        wide = None if sys.stdout.isatty() else FILE_COLUMNS
        print_result(Console(file=sys.stdout, width=wide), result)
    terminal.document(result)
    return 1 if result.get("failed") else 0


def declare(parser: argparse.ArgumentParser, config: Any) -> list[str]:
    """Add one option per field of a dataclass; the text under a field is its help.

    Those of `BY_PLACE` are given without a name.
    """
    from khala.evals.report import BY_PLACE

    hints = typing.get_type_hints(config)
    texts = _field_texts(config)
    names = []
    for field in dataclasses.fields(config):
        option = "--" + field.name.replace("_", "-")
        text = texts.get(field.name, "").replace("%", "%%")
        kind = _plain_type(hints[field.name])
        required = field.default is dataclasses.MISSING
        if field.name in BY_PLACE:
            parser.add_argument(
                field.name,
                nargs=None if required else "?",
                type=kind,
                metavar=field.name.upper(),
                help=text,
            )
        elif kind is bool:
            parser.add_argument(option, action="store_true", help=text)
        else:
            default = None if required else field.default
            shown = "" if default is None else f" (default: {_shown(default)})"
            parser.add_argument(
                option,
                type=_words if kind is tuple else kind,
                default=default,
                required=required,
                metavar=field.name.upper(),
                help=text + shown,
            )
        names.append(field.name)
    return names


def _plain_type(hint: Any) -> Any:
    """``Path | None`` is Path, ``tuple[str, ...]`` is tuple."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        (hint,) = [one for one in typing.get_args(hint) if one is not type(None)]
        origin = typing.get_origin(hint)
    kind = origin or hint
    if kind not in (str, int, float, bool, Path, tuple):
        raise KhalaError(f"an option cannot be {hint}")
    return kind


def _words(text: str) -> tuple[str, ...]:
    """``a,b`` is ("a", "b"), ``none`` is nothing."""
    return () if text == "none" else tuple(text.split(","))


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _field_texts(config: Any) -> dict[str, str]:
    """The docstring literal under each field."""
    (body,) = ast.parse(inspect.getsource(config)).body
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        named = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        if named and isinstance(following, ast.Expr):
            value = ast.literal_eval(following.value)
            texts[statement.target.id] = " ".join(str(value).split())  # type: ignore[attr-defined]
    return texts
