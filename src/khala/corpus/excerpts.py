"""Short excerpts of prepared songs: lines and sections with just the words that are sung in them.

Which sound answers which word is learned from many short pairs far sooner than from a few long
ones, and a short stream costs less.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from khala.corpus.timing import sounding_between, sung_between

if TYPE_CHECKING:
    from khala.corpus.codes import CodesExample

__all__ = ["excerpts", "line_excerpts", "with_excerpts"]

ONSET_S = 0.15
"""Consonants of a section's first word begin before its first beat."""

WORD = re.compile(r"[\w']+")


def excerpts(song: CodesExample, *, max_s: float) -> list[CodesExample]:
    """Return every section with words, and every run of sections, that lasts at most ``max_s``.

    Shape letters: Q levels, T frames. Of an instrumental there are none.
    """
    found = []
    for first in range(len(song.sections)):
        for last in range(first, len(song.sections)):
            run = song.sections[first : last + 1]
            start_s = max(0.0, run[0].start_s - ONSET_S)
            end_s = min(song.duration_s, run[-1].end_s)
            if end_s - start_s > max_s or (first, last) == (0, len(song.sections) - 1):
                break
            lyrics = "\n\n".join(section.lyrics for section in run if section.lyrics)
            if lyrics:
                found.append(_cut(song, f"{first}-{last}", lyrics, start_s, end_s))
    return [part for part in found if part.num_frames]


def line_excerpts(song: CodesExample) -> list[CodesExample]:
    """Return every sung line by itself, under the tag of its section; none without word times.

    Nor if lyrics and sung words disagree anywhere: the wrong words are worse than no excerpt.
    """
    left, tag = list(song.words), ""
    found: list[CodesExample] = []
    for place, line in enumerate(song.lyrics.split("\n")):
        if line.startswith("["):
            tag = line
        texts = [] if line.startswith("[") else WORD.findall(line.lower())
        sung, left = left[: len(texts)], left[len(texts) :]
        if [word.text.lower() for word in sung] != texts:
            return []
        if sung:
            start_s = max(0.0, sung[0].start_s - ONSET_S)
            end_s = min(song.duration_s, sung[-1].end_s + ONSET_S)
            lyrics = f"{tag}\n{line}" if tag else line
            found.append(_cut(song, f"line {place}", lyrics, start_s, end_s))
    return [] if left else [part for part in found if part.num_frames]


def _cut(song: CodesExample, name: str, lyrics: str, start_s: float, end_s: float) -> CodesExample:
    """Return a stretch of a song as an example of its own."""
    rate_hz = song.num_frames / song.duration_s
    return replace(
        song,
        id=f"{song.id}:{name}",
        codes=song.codes.cut(round(start_s * rate_hz), round(end_s * rate_hz)),
        lyrics=lyrics,
        duration_s=end_s - start_s,
        sections=(),
        words=sung_between(song.words, start_s, end_s),
        phonemes=sung_between(song.phonemes, start_s, end_s),
        chords=sounding_between(song.chords, start_s, end_s),
        beats_s=tuple(beat_s - start_s for beat_s in song.beats_s if start_s <= beat_s < end_s),
    )


def with_excerpts(
    songs: Sequence[CodesExample], max_s: float, *, lines: bool = False
) -> list[CodesExample]:
    """Return the songs, then their excerpts if ``max_s`` is above 0, then their lines if asked."""
    short = [part for song in songs for part in excerpts(song, max_s=max_s)] if max_s > 0 else []
    single = [part for song in songs for part in line_excerpts(song)] if lines else []
    return [*songs, *short, *single]
