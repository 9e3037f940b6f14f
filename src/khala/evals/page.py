"""A result as one HTML file that needs nothing else: tables, pictures, sounds.

Nothing is fetched and nothing runs: no script, and a policy that forbids both. What comes from
songs (titles, prompts, file names) is text and never markup.
"""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from khala.audio import replacing, write_audio
from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.tables import Cell, shown_cell

__all__ = ["write_page"]

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 96rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
code { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
th, td { white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; }
td.long { white-space: normal; min-width: 16rem; max-width: 40rem; }
.yes { color: #1a7f37; } .no { color: #cf222e; font-weight: 600; }
img { max-width: 100%; background: white; }
figure { margin: .5rem 0; } audio { width: 100%; max-width: 40rem; height: 2.2rem; }
"""
LONG_TEXT = 24
"""More letters than this may go over several lines."""

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def write_page(
    path: Path,
    result: Mapping[str, Any],
    *,
    pictures: Sequence[Path] = (),
    sounds: Mapping[str, Wave] | None = None,
) -> None:
    """Write one result as a page, whole or not at all.

    Args:
        path: such as results/songs.html.
        result: with "eval", its circumstances, "tables" and "notes".
        pictures: PNG files to be held in the page; those that are not there are left out.
        sounds: waves [2, N] at 44.1 kHz by title, held as MP3.
    """
    title = " ".join(str(result["command"]).split(" ")[:3]).split(" --")[0]
    parts = [f"<h1>{_text(title)}</h1>", _circumstances(result)]
    parts += [f"<p>{_text(note)}</p>" for note in result.get("notes", [])]
    parts += [_table(one) for one in result.get("tables", [])]
    for picture in pictures:
        if picture.is_file():
            data = base64.b64encode(picture.read_bytes()).decode()
            parts.append(
                f"<h2>{_text(picture.stem)}</h2>"
                f'<img alt="{_text(picture.stem)}" src="data:image/png;base64,{data}">'
            )
    if sounds:
        parts.append("<h2>Sounds</h2>")
        parts += [_sound(name, wave_CN) for name, wave_CN in sounds.items()]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _circumstances(result: Mapping[str, Any]) -> str:
    hardware, software = result["hardware"], result["software"]
    machine = hardware["gpu"] or f"{hardware['processor']}, {hardware['num_cores']} cores"
    versions = ", ".join(f"{name} {version}" for name, version in software.items())
    return (
        f"<p><code>{_text(result['command'])}</code><br>"
        f"{_text(result['date'])} · {_text(machine)} · {_text(versions)}</p>"
    )


def _table(table: Mapping[str, Any]) -> str:
    known = [
        [value for value in column if value is not None]
        for column in zip(*table["rows"], strict=True)
    ]
    is_text = [bool(column) and all(isinstance(one, str) for one in column) for column in known]
    is_text += [False] * (len(table["columns"]) - len(is_text))
    head = "".join(
        f'<th scope="col"{_class("text" if text else "")}>{_text(name)}</th>'
        for name, text in zip(table["columns"], is_text, strict=True)
    )
    rows = "".join("<tr>" + "".join(map(_cell, row, is_text)) + "</tr>" for row in table["rows"])
    return (
        f"<h2>{_text(table['title'])}</h2>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cell(value: Cell, is_text: bool) -> str:
    """Return one cell: a column of nothing but text stands on the left as a whole."""
    shown = shown_cell(value)
    kind = "text long" if len(shown) > LONG_TEXT else "text"
    name = shown if isinstance(value, bool) else kind if is_text else ""
    return f"<td{_class(name)}>{_text(shown)}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _sound(name: str, wave_CN: Wave) -> str:
    """Return a player; peaks above full scale are turned down, as a file would clip."""
    peak = max(1.0, float(np.abs(wave_CN).max(initial=0.0)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sound.mp3"
        write_audio(file, wave_CN / peak, sample_rate_hz=SAMPLE_RATE_HZ)
        data = base64.b64encode(file.read_bytes()).decode()
    return (
        f"<figure><figcaption>{_text(name)}</figcaption>"
        f'<audio controls preload="none" src="data:audio/mpeg;base64,{data}"></audio></figure>'
    )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
