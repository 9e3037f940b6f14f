"""Somebody else's program that gives songs marks, such as Audiobox aesthetics or SongEval.

    --scorer "audiobox: audio-aes {jsonl} --batch-size 4"
    --scorer "songeval: env --chdir=SongEval python eval.py -i {folder} -o {scores}"

It is run as it is written, without a shell, once for every few dozen songs, which it finds as 44.1
kHz 16-bit stereo WAV, turned down only if it would clip. Its marks are JSON: one object a line in
the songs' order, or one object with the songs' names as keys. They are read from what it prints, or
from where ``{scores}`` points.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from khala.audio import write_audio
from khala.errors import ConfigError
from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.outside import run_command, split_name

__all__ = ["Scorer"]

FORM = '"NAME: COMMAND", with {jsonl}, {list} or {folder} for the songs'
SONGS = ("{jsonl}", "{list}", "{folder}")
SCORES = "{scores}"
BATCH = 32
"""Songs a run: a model is loaded once for all of them, and no more are on the disk at a time."""

MAX_S = 900.0
"""A run that takes longer for one song is stopped."""

MAX_SCORE_BYTES = 16 << 20

Row = dict[str, Any]


class Scorer:
    """Collects songs, has them marked by the dozen, and writes the marks into their rows."""

    def __init__(self, name: str, command: tuple[str, ...]) -> None:
        self.name = name
        self.failure: str | None = None
        """Why it gave no marks; it is not asked again."""

        self.marks: list[str] = []
        """Columns that it wrote."""

        self._command = command
        self._rows: list[Row] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def parse(cls, text: str) -> Scorer:
        """Read "NAME: COMMAND".

        Raises:
            ConfigError: it is not of that form, or the command is not told where the songs are.
        """
        name, words = split_name(text, option="--scorer", form=FORM)
        if not any(place in word for word in words for place in SONGS):
            raise ConfigError(f"--scorer is {FORM}, not {text!r}")
        return cls(name, words)

    def add(self, wave_CN: Wave, row: Row) -> None:
        """Take a song; its marks are written into ``row`` now or at `finish`."""
        if self.failure is not None:
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="khala-scorer-")
            (Path(self._folder.name) / "songs").mkdir()
        path = _song_path(Path(self._folder.name), len(self._rows))
        peak = max(1.0, float(np.abs(wave_CN).max(initial=0.0)))
        write_audio(path, wave_CN / peak, sample_rate_hz=SAMPLE_RATE_HZ)
        self._rows.append(row)
        if len(self._rows) == BATCH:
            self.finish()

    def finish(self) -> None:
        """Have the songs marked that were not yet; a failure is kept in ``failure``."""
        rows, folder = self._rows, self._folder
        self._rows, self._folder = [], None
        if folder is None:
            return
        with folder as name:
            try:
                found = self._marks(Path(name), len(rows))
            except ConfigError as error:
                self.failure = str(error)
                return
        for row, marks in zip(rows, found, strict=True):
            row.update({f"{self.name}_{mark}": value for mark, value in marks.items()})
            self.marks += [one for one in row if self._is_new(one)]

    def _is_new(self, column: str) -> bool:
        return column.startswith(f"{self.name}_") and column not in self.marks

    def _marks(self, folder: Path, num_songs: int) -> list[dict[str, float]]:
        """Run the command and return its marks of every song."""
        songs = [_song_path(folder, number) for number in range(num_songs)]
        places = {
            "{jsonl}": folder / "songs.jsonl",
            "{list}": folder / "songs.txt",
            "{folder}": folder / "songs",
            SCORES: folder / "scores",
        }
        lines = [json.dumps({"path": str(song)}) for song in songs]
        places["{jsonl}"].write_text("\n".join(lines) + "\n")
        places["{list}"].write_text("\n".join(map(str, songs)) + "\n")
        what = f"scorer {self.name}"
        text = run_command(what, self._command, places, timeout_s=MAX_S * num_songs)
        if any(SCORES in word for word in self._command):
            text = _written(places[SCORES], what)
        return _by_song(text, [song.stem for song in songs], what)


def _song_path(folder: Path, number: int) -> Path:
    return folder / "songs" / f"song-{number:04d}.wav"


def _written(path: Path, what: str) -> str:
    """Return the text of a file of scores, or of the only JSON file in a folder of that name."""
    if path.is_dir():
        inside = sorted([*path.rglob("*.json"), *path.rglob("*.jsonl")])
        if len(inside) != 1:
            raise ConfigError(f"{what} left {len(inside)} JSON files in {SCORES}, not one")
        path = inside[0]
    if not path.is_file():
        raise ConfigError(f"{what} left nothing at {SCORES}")
    if path.stat().st_size > MAX_SCORE_BYTES:
        raise ConfigError(f"{what} left over {MAX_SCORE_BYTES >> 20} MiB at {SCORES}")
    return path.read_text(encoding="utf-8", errors="replace")


def _by_song(text: str, names: list[str], what: str) -> list[dict[str, float]]:
    """Return the numbers of every song, from one object by name or from lines in their order."""
    whole = _json(text)
    if isinstance(whole, dict) and any(isinstance(value, dict) for value in whole.values()):
        by_name = {Path(str(name)).stem: marks for name, marks in whole.items()}
        missing = [name for name in names if name not in by_name]
        if missing:
            raise ConfigError(f"{what} gave no marks to {missing[0]}")
        return [_numbers(by_name[name], what) for name in names]
    lines = [value for line in text.splitlines() if isinstance(value := _json(line), dict)]
    if len(lines) != len(names):
        raise ConfigError(
            f"{what} gave {len(lines)} lines of marks for {len(names)} songs: one JSON object a "
            "line is wanted, or one with the songs' names"
        )
    return [_numbers(line, what) for line in lines]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _numbers(marks: Any, what: str) -> dict[str, float]:
    """Return the marks that are finite numbers.

    Raises:
        ConfigError: none is.
    """
    given = marks if isinstance(marks, Mapping) else {}
    kept = {
        str(name): float(value)
        for name, value in given.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    if not kept:
        raise ConfigError(f"{what} gave a song no number: {str(marks)[:80]!r}")
    return kept
