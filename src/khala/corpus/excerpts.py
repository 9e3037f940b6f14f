"""Short excerpts of prepared songs: whole sections with just the words that are sung in them.

Which sound answers which word is learned from many short pairs far sooner than from a few long
ones, and a short stream costs less.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from khala.corpus.codes import CodesExample

__all__ = ["Section", "excerpts", "sections_with_lyrics", "with_excerpts"]

ONSET_S = 0.15
"""Consonants of a section's first word begin before its first beat."""

TAG = re.compile(r"\[(.+)\]")


@dataclass(frozen=True, slots=True)
class Section:
    """A section in time, with its part of the lyrics."""

    start_s: float
    end_s: float
    lyrics: str
    """Tag and lines, as in the song's lyrics; empty where nobody sings."""


def sections_with_lyrics(sections: Sequence[dict[str, Any]], lyrics: str) -> tuple[Section, ...]:
    """Give each section of a song's ground truth its block of the lyrics, in order, by name.

    Returns nothing at all if some block finds no section: half-right words teach wrong ones.
    """
    blocks = [block.strip() for block in re.split(r"\n\s*\n", lyrics) if block.strip()]
    given = []
    for section in sections:
        words = ""
        if blocks:
            tag = TAG.match(blocks[0])
            if tag and tag.group(1).lower() == str(section["name"]).lower():
                words = blocks.pop(0)
        given.append(Section(float(section["start_s"]), float(section["end_s"]), words))
    return () if blocks else tuple(given)


def excerpts(song: CodesExample, *, max_s: float) -> list[CodesExample]:
    """Return every section with words, and every run of sections, that lasts at most ``max_s``.

    Shape letters: Q levels, T frames. Of an instrumental there are none.
    """
    rate_hz = song.num_frames / song.duration_s
    found = []
    for first in range(len(song.sections)):
        for last in range(first, len(song.sections)):
            run = song.sections[first : last + 1]
            start_s = max(0.0, run[0].start_s - ONSET_S)
            end_s = min(song.duration_s, run[-1].end_s)
            if end_s - start_s > max_s or (first, last) == (0, len(song.sections) - 1):
                break
            lyrics = "\n\n".join(section.lyrics for section in run if section.lyrics)
            codes_QT = song.codes_QT[:, round(start_s * rate_hz) : round(end_s * rate_hz)]
            if lyrics and codes_QT.shape[1]:
                found.append(
                    replace(
                        song,
                        id=f"{song.id}:{first}-{last}",
                        codes_QT=codes_QT,
                        lyrics=lyrics,
                        duration_s=end_s - start_s,
                        sections=(),
                    )
                )
    return found


def with_excerpts(songs: Sequence[CodesExample], max_s: float) -> list[CodesExample]:
    """Return the songs, followed by their excerpts if ``max_s`` is above 0."""
    short = [part for song in songs for part in excerpts(song, max_s=max_s)] if max_s > 0 else []
    return [*songs, *short]
