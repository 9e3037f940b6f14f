"""Short excerpts of prepared songs: whole sections with just the words that are sung in them.

Which sound answers which word is learned from many short pairs far sooner than from a few long
ones, and a short stream costs less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from khala.corpus.timing import sung_between

if TYPE_CHECKING:
    from khala.corpus.codes import CodesExample

__all__ = ["excerpts", "with_excerpts"]

ONSET_S = 0.15
"""Consonants of a section's first word begin before its first beat."""


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
                        words=sung_between(song.words, start_s, end_s),
                    )
                )
    return found


def with_excerpts(songs: Sequence[CodesExample], max_s: float) -> list[CodesExample]:
    """Return the songs, followed by their excerpts if ``max_s`` is above 0."""
    short = [part for song in songs for part in excerpts(song, max_s=max_s)] if max_s > 0 else []
    return [*songs, *short]
