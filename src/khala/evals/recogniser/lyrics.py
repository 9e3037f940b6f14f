"""Words of a lyric to the phonemes a singer of the corpus would sing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from khala.corpus import CorpusSong
from khala.tokens import sections

WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


def lyric_words(lyrics: str) -> list[str]:
    """Return the words of a lyric in order, lower case, without section tags."""
    lines = [line for section in sections(lyrics) for line in section.lines]
    return WORD.findall("\n".join(lines).lower().replace("\u2019", "'"))


def pronounce(lyrics: str, words: Mapping[str, tuple[str, ...]]) -> tuple[list[str], list[str]]:
    """Return the phonemes of a lyric, and the words no pronunciation is known for."""
    phonemes: list[str] = []
    unknown: list[str] = []
    for word in lyric_words(lyrics):
        if word in words:
            phonemes.extend(words[word])
        else:
            unknown.append(word)
    return phonemes, unknown


def sung_phonemes(
    truth: Mapping[str, Any], *, start_s: float = 0.0, end_s: float = float("inf")
) -> list[str]:
    """Return the phonemes whose middle lies in a stretch of a song, in the order they are sung.

    A truth without phonemes, such as a user's own, gives none.
    """
    return [
        str(one["phoneme"])
        for one in truth.get("phonemes", [])
        if start_s <= (one["start_s"] + one["end_s"]) / 2 < end_s
    ]


def collect_words(songs: Iterable[CorpusSong]) -> dict[str, tuple[str, ...]]:
    """Return the most frequent pronunciation of every word sung in these songs.

    A dictionary and not an answer sheet: words that are only sung in held-out songs are in it too,
    as a lyric that cannot be pronounced cannot be scored.
    """
    heard: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for song in songs:
        truth = song.truth()
        phonemes = iter(truth["phonemes"])
        upcoming = next(phonemes, None)
        for word in truth["words"]:
            said: list[str] = []
            while upcoming is not None and _middle_s(upcoming) < word["end_s"]:
                if _middle_s(upcoming) >= word["start_s"]:
                    said.append(str(upcoming["phoneme"]))
                upcoming = next(phonemes, None)
            names = lyric_words(str(word["word"]))
            if said and len(names) == 1:
                heard[names[0]][tuple(said)] += 1
    return {word: counts.most_common(1)[0][0] for word, counts in heard.items()}


def _middle_s(phoneme: Mapping[str, Any]) -> float:
    return float(phoneme["start_s"] + phoneme["end_s"]) / 2
