"""Argument parsing whose every complaint is one line, and which guesses what was meant."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from typing import Any, NoReturn

from khala.errors import KhalaError

__all__ = ["Parser", "UsageError", "guess", "unknown_word"]


class UsageError(KhalaError):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError instead of printing and leaving."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Refuse a command line."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def options(self) -> list[str]:
        """Every long option, for guessing."""
        return [name for name in self._option_string_actions if name.startswith("--")]


def guess(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` if anything known is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown_word(parser: Parser, word: str) -> UsageError:
    """What to raise for a word that ``parser`` does not know."""
    name = word.split("=")[0]
    what = "option" if name.startswith("-") else "argument"
    return UsageError(
        f"{parser.prog} has no {what} {name!r}{guess(name, parser.options())} "
        f"(see {parser.prog} --help)"
    )
