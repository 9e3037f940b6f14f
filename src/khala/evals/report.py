"""How a result is shown and kept: tables and a page for people, JSON for claims.

Every evaluation returns a plain dict with ``tables``; `print_result` shows them, `write_result`
stores them with date, hardware, software and the command, so that a number in a document can be
traced to a run. Only the names of folders are kept, never where they were on the machine.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from khala.audio import replacing
from khala.evals.distances import Wave
from khala.evals.page import write_page
from khala.evals.tables import Cell, shown_cell, table

__all__ = [
    "BY_PLACE",
    "Cell",
    "OnMessage",
    "finish",
    "hardware",
    "ignore_messages",
    "print_result",
    "table",
    "write_result",
]

OnMessage = Callable[[str], None]
BY_PLACE = ("folder", "first", "second")
"""Arguments of any evaluation that are given by their place and not by their name."""


def ignore_messages(message: str) -> None:
    """Take a progress line and show it to nobody."""
    del message


def finish(
    name: str,
    result: Mapping[str, Any],
    *,
    arguments: Mapping[str, object],
    out: Path | None,
    draw: Callable[[Path], None] | None = None,
    sounds: Mapping[str, Wave] | None = None,
) -> dict[str, Any]:
    """Add the circumstances of the run and return it all.

    Args:
        name: the evaluation's.
        result: plain values, "tables" and "notes".
        arguments: of the command.
        out: where ``NAME.json`` and then ``NAME.html`` are written.
        draw: draws ``NAME.png``, which the page holds too, given its path.
        sounds: waves [2, N] by title, for the page.
    """
    whole = {"eval": name, **circumstances(name, arguments), **result}
    plain: dict[str, Any] = json.loads(json.dumps(_plain(whole), allow_nan=False))
    if out is not None:
        write_result(out / f"{name}.json", plain)
        picture = out / f"{name}.png"
        if draw is not None:
            draw(picture)
        write_page(out / f"{name}.html", plain, pictures=[picture], sounds=sounds or {})
    return plain


def circumstances(name: str, arguments: Mapping[str, object]) -> dict[str, Any]:
    """Return when, on what and by which command a result was measured."""
    words = ["khala", "eval", name]
    for key, value in arguments.items():
        if value is None or key == "out" or value is False:
            continue
        option = "--" + key.replace("_", "-")
        if key in BY_PLACE:
            words.append(Path(str(value)).name)
        elif value is True:
            words.append(option)
        elif isinstance(value, list | tuple):
            words += [option, ",".join(str(item) for item in value) or "none"]
        else:
            words += [option, value.name if isinstance(value, Path) else str(value)]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(words),
        "hardware": hardware(),
        "software": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "khala": importlib.metadata.version("khala"),
        },
    }


def hardware() -> dict[str, Any]:
    """Return the processor, its cores and the GPU, in words."""
    processor = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    return {
        "processor": processor,
        "num_cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write one result as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text)


def print_result(console: Console, result: Mapping[str, Any]) -> None:
    """Show every table of a result, then its notes."""
    for one in result.get("tables", []):
        shown = Table(title=one["title"], title_justify="left")
        for index, column in enumerate(one["columns"]):
            shown.add_column(column, justify="left" if index == 0 else "right")
        for row in one["rows"]:
            shown.add_row(*(shown_cell(value) for value in row))
        console.print(shown)
    for note in result.get("notes", []):
        console.print(note, markup=False)


def _plain(value: Any) -> Any:
    """Turn what is not finite into None: JSON has no NaN, and a missing value must be seen."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.name
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
