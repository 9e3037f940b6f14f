"""When what is sung: sections and words of a song in time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Section", "Word", "sections_with_lyrics", "sounding_between", "sung_between"]

TAG = re.compile(r"\[(.+)\]")


@dataclass(frozen=True, slots=True)
class Section:
    """A section in time, with its part of the lyrics."""

    start_s: float
    end_s: float
    lyrics: str
    """Tag and lines, as in the song's lyrics; empty where nobody sings."""


@dataclass(frozen=True, slots=True)
class Word:
    """A sung word, a phoneme of one, or a chord under it, in time."""

    text: str
    start_s: float
    end_s: float


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


def sung_between(words: Sequence[Word], start_s: float, end_s: float) -> tuple[Word, ...]:
    """Return what begins to be sung in a stretch of a song, timed from its start."""
    return tuple(
        Word(word.text, word.start_s - start_s, word.end_s - start_s)
        for word in words
        if start_s <= word.start_s < end_s
    )


def sounding_between(chords: Sequence[Word], start_s: float, end_s: float) -> tuple[Word, ...]:
    """Return what sounds in a stretch of a song, begun before it or not, timed from its start."""
    return tuple(
        Word(chord.text, max(chord.start_s, start_s) - start_s, min(chord.end_s, end_s) - start_s)
        for chord in chords
        if chord.start_s < end_s and chord.end_s > start_s
    )
