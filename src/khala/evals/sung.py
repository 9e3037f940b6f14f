"""Which words of a lyric are heard: error rates, and the words left out or sung again.

Shape letters, this file only: C channels, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from khala.evals.distances import Wave
from khala.evals.recogniser import Recogniser, edit_distance, lyric_words
from khala.evals.recogniser.scoring import align_phonemes

__all__ = ["repeated_phonemes", "score_words", "skipped_words"]

NUM_SHUFFLES = 3
SKIPPED = 1 / 3
"""A word of which less than this is heard in its place was left out."""

SHORTEST_REPEAT = 6
REPEAT_ERRORS = 1 / 3
"""So many phonemes or more that the lyric does not have, and that with at most so many errors are
what was sung just before or after: sung again."""


def score_words(
    wave_CN: Wave, lyrics: str, others: Sequence[str], ear: Recogniser
) -> dict[str, Any]:
    """Return what is heard of a lyric, beside what of other songs' lyrics would be.

    Args:
        wave_CN: the song.
        lyrics: its lyrics; empty for an instrumental.
        others: lyrics of other songs; those nearest in length are the ceiling.
        ear: the recogniser; words it does not know are left out and counted.

    Returns:
        "phonemes_heard"; with words also "per", "per_shuffled" (None without others),
        "unknown_words", "phonemes_wanted", "words", "words_skipped", "phonemes_repeated", and
        "skipped_shuffled", the share that would be left out of other songs' words.
    """
    heard = ear.recognise(wave_CN)
    found: dict[str, Any] = {"phonemes_heard": len(heard), "per": None, "per_shuffled": None}
    if not lyrics.strip():
        return found
    words = _said(lyrics, ear)
    found["unknown_words"] = len(lyric_words(lyrics)) - len(words)
    if not words:
        return found
    wanted = _sounds(words)
    found["phonemes_wanted"] = len(wanted)
    found["per"] = edit_distance(heard, wanted) / len(wanted)
    found["words"] = len(words)
    found["words_skipped"] = skipped_words(heard, words)
    found["phonemes_repeated"] = repeated_phonemes(heard, wanted)
    said = [_said(other, ear) for other in others if other != lyrics]
    apart = [(abs(sum(map(len, one)) - len(wanted)), place) for place, one in enumerate(said)]
    nearest = [said[place] for _, place in sorted(apart) if said[place]][:NUM_SHUFFLES]
    if nearest:
        shuffled = [_sounds(one) for one in nearest]
        rates = [edit_distance(heard, one) / len(one) for one in shuffled]
        found["per_shuffled"] = float(np.mean(rates))
        skipped = [skipped_words(heard, one) / len(one) for one in nearest]
        found["skipped_shuffled"] = float(np.mean(skipped))
    return found


def _said(lyrics: str, ear: Recogniser) -> list[tuple[str, ...]]:
    """Return the phonemes of every word of a lyric that the recogniser knows."""
    return [ear.words[word] for word in lyric_words(lyrics) if word in ear.words]


def _sounds(words: Sequence[Sequence[str]]) -> list[str]:
    """Return the phonemes of words, one after another."""
    return [phoneme for word in words for phoneme in word]


def skipped_words(heard: Sequence[str], words: Sequence[Sequence[str]]) -> int:
    """Return how many words were left out: hardly a phoneme of them is heard in its place."""
    right = [one == other for one, other in align_phonemes(heard, _sounds(words)) if one]
    skipped, place = 0, 0
    for word in words:
        skipped += sum(right[place : place + len(word)]) < SKIPPED * len(word)
        place += len(word)
    return skipped


def repeated_phonemes(heard: Sequence[str], wanted: Sequence[str]) -> int:
    """Return how many phonemes were sung again: not in the lyric, and like those beside them."""
    repeated, end = 0, 0
    run = 0
    for one, other in [*align_phonemes(heard, wanted), ("", "")]:
        if other and not one:
            run, end = run + 1, end + 1
            continue
        start = end - run
        again = heard[start:end]
        beside = (heard[max(0, start - run) : start], heard[end : end + run])
        if run >= SHORTEST_REPEAT and any(
            edit_distance(again, sung) <= REPEAT_ERRORS * run for sung in beside
        ):
            repeated += run
        run, end = 0, end + bool(other)
    return repeated
