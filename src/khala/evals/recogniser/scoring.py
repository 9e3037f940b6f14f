"""Phoneme error rates: of what was heard against what should have been sung."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MAX_UNKNOWN_SHARE = 0.1
"""A lyric with more unknown words than this cannot be scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorRate:
    """Errors over many songs: the sum of edits over the sum of lengths, as usual."""

    per: float
    """Substitutions, insertions and deletions per wanted phoneme; may exceed 1."""

    standard_error: float
    """Of ``per``, from the spread between songs (ratio estimator)."""

    num_songs: int
    """Songs that were scored."""

    num_phonemes: int
    """Wanted phonemes in all of them."""


def edit_distance(heard: Sequence[str], wanted: Sequence[str]) -> int:
    """Return the fewest substitutions, insertions and deletions between two sequences."""
    if not heard or not wanted:
        return max(len(heard), len(wanted))
    names = {name: index for index, name in enumerate(dict.fromkeys([*heard, *wanted]))}
    wanted_ids = np.array([names[name] for name in wanted])
    steps = np.arange(len(wanted) + 1)
    row = steps.copy()
    for position, name in enumerate(heard, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (wanted_ids != names[name]))
        best = np.concatenate([[position], best])
        # A run of deletions costs one each: the running minimum of best - steps finds them all.
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def error_rate(heard: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> ErrorRate:
    """Return the phoneme error rate of several songs; songs without a wanted phoneme are left out.

    Raises:
        ValueError: the two lists differ in length, or nothing at all was to be sung.
    """
    pairs = [(h, w) for h, w in zip(heard, wanted, strict=True) if w]
    if not pairs:
        raise ValueError("no phonemes were to be sung in any of these songs")
    edits = np.array([edit_distance(h, w) for h, w in pairs], dtype=np.float64)
    lengths = np.array([len(w) for _, w in pairs], dtype=np.float64)
    rate = edits.sum() / lengths.sum()
    residuals = edits - rate * lengths
    spread = np.sqrt((residuals**2).sum() / max(1, len(pairs) - 1) * len(pairs)) / lengths.sum()
    return ErrorRate(
        per=float(rate),
        standard_error=float(spread),
        num_songs=len(pairs),
        num_phonemes=int(lengths.sum()),
    )


def shuffled_error_rate(
    heard: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]], *, num_shifts: int = 3
) -> ErrorRate:
    """Return the error rate of songs against other songs' words: what chance would score.

    Every song is compared with the ``num_shifts`` songs next to it in number of phonemes: only the
    words are wrong, not how many there are, and nothing is drawn.

    Raises:
        ValueError: fewer than two songs have words.
    """
    pairs = [(h, w) for h, w in zip(heard, wanted, strict=True) if w]
    if len(pairs) < 2:
        raise ValueError("shuffling lyrics takes two songs with words")
    pairs.sort(key=lambda pair: len(pair[1]))
    all_heard: list[Sequence[str]] = []
    all_wanted: list[Sequence[str]] = []
    for shift in range(1, min(num_shifts, len(pairs) - 1) + 1):
        for index, (one, _) in enumerate(pairs):
            other = index + shift if index + shift < len(pairs) else index - shift
            all_heard.append(one)
            all_wanted.append(pairs[other][1])
    return error_rate(all_heard, all_wanted)


def most_confused(
    heard: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]], *, num_shown: int = 12
) -> list[tuple[str, str, int]]:
    """Return the commonest (wanted, heard, times) of the best alignments; "" is nothing."""
    counts: dict[tuple[str, str], int] = {}
    for one, other in zip(heard, wanted, strict=True):
        for pair in align_phonemes(one, other):
            if pair[0] != pair[1]:
                counts[pair] = counts.get(pair, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(wanted_one, heard_one, n) for (wanted_one, heard_one), n in ranked[:num_shown]]


def align_phonemes(heard: Sequence[str], wanted: Sequence[str]) -> list[tuple[str, str]]:
    """Return (wanted, heard) pairs of one cheapest alignment; "" is nothing."""
    cost = np.zeros((len(heard) + 1, len(wanted) + 1), dtype=np.int64)
    cost[:, 0], cost[0] = np.arange(len(heard) + 1), np.arange(len(wanted) + 1)
    for i, name in enumerate(heard, start=1):
        for j, other in enumerate(wanted, start=1):
            replaced = cost[i - 1, j - 1] + (name != other)
            cost[i, j] = min(replaced, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    pairs: list[tuple[str, str]] = []
    i, j = len(heard), len(wanted)
    while i or j:
        same = i and j and cost[i, j] == cost[i - 1, j - 1] + (heard[i - 1] != wanted[j - 1])
        if same:
            i, j = i - 1, j - 1
            pairs.append((wanted[j], heard[i]))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            pairs.append(("", heard[i]))
        else:
            j -= 1
            pairs.append((wanted[j], ""))
    return pairs[::-1]


def scores_of(rates: Mapping[str, ErrorRate]) -> list[list[str | int | float | None]]:
    """Return one table row per named error rate."""
    return [
        [name, rate.per, rate.standard_error, rate.num_songs, rate.num_phonemes]
        for name, rate in rates.items()
    ]
