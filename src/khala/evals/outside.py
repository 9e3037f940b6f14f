"""Programs from outside, run as they are written: without a shell, with files in their places."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from khala.errors import ConfigError

__all__ = ["run_command", "split_name"]


def split_name(text: str, *, option: str, form: str) -> tuple[str, tuple[str, ...]]:
    """Return the name and the words of "NAME: COMMAND".

    Raises:
        ConfigError: it is not of that form.
    """
    name, colon, command = text.partition(":")
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: {error}; give {form}") from error
    if not colon or not name.strip() or not words:
        raise ConfigError(f"{option} is {form}, not {text!r}")
    return name.strip(), words


def run_command(
    name: str, command: Sequence[str], places: Mapping[str, Path], *, timeout_s: float
) -> str:
    """Run a command with paths in place of ``{wav}`` and the like; return what it printed.

    Raises:
        ConfigError: it is missing, takes too long, or ends with another status than 0.
    """
    words = []
    for word in command:
        for place, path in places.items():
            word = word.replace(place, str(path))
        words.append(word)
    try:
        done = subprocess.run(
            words, check=False, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{name}: cannot run {command[0]!r}: {error}") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ConfigError(
            f"{name}: {command[0]!r} ended with status {done.returncode}: {' '.join(last)}"
        )
    return done.stdout.decode(errors="replace")
