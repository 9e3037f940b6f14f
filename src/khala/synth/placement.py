"""Sung words in time: where every phoneme of a line begins and ends, to the millisecond.

Vowels begin on their notes. Consonants keep about the length they have in speech and take
their time from the end of the note before; vowels are stretched to fill what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

from khala.errors import CorpusError
from khala.synth.phonemes import is_vowel, syllables
from khala.synth.score import Clock, SungWord

_CLUSTER_SHARE = 0.42
"""Consonants between two vowels may take this share of the time between them."""

_GAP_S = 0.12
"""Notes further apart than this have silence between their words."""

_CONSONANT_PACE = 0.9
_LATE_CODA_S = 0.05


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """The natural lengths of a word's phonemes."""

    phonemes: tuple[str, ...]
    lengths_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PlacedPhoneme:
    """A phoneme in song time. ``position`` counts phonemes in the word ``word`` of the song."""

    phoneme: str
    word: int
    position: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class _Syllable:
    word: int
    onset: tuple[int, ...]
    nucleus: int
    coda: tuple[int, ...]
    start_s: float
    end_s: float


def place_line(
    words: list[tuple[int, SungWord]], spoken: list[SpokenWord], clock: Clock
) -> list[PlacedPhoneme]:
    """Place the words of one line, given with their numbers in the song."""
    parts: list[_Syllable] = []
    lengths: dict[tuple[int, int], float] = {}
    names: dict[tuple[int, int], str] = {}
    for (number, word), said in zip(words, spoken, strict=True):
        spans = syllables(said.phonemes)
        if len(spans) != len(word.notes):
            raise CorpusError(f"{word.word!r} has {len(spans)} syllables, not {len(word.notes)}")
        for position, (name, length_s) in enumerate(
            zip(said.phonemes, said.lengths_s, strict=True)
        ):
            names[number, position] = name
            lengths[number, position] = length_s * _CONSONANT_PACE
        for (first, last), note in zip(spans, word.notes, strict=True):
            parts.append(_syllable(said.phonemes, number, first, last,
                                   clock.seconds(note.start), clock.seconds(note.end)))  # fmt: skip
    return _place(parts, lengths, names)


def _syllable(
    phonemes: tuple[str, ...], number: int, first: int, last: int, start_s: float, end_s: float
) -> _Syllable:
    nucleus = next(i for i in range(first, last) if is_vowel(phonemes[i]))
    return _Syllable(
        number, tuple(range(first, nucleus)), nucleus, tuple(range(nucleus + 1, last)),
        start_s, end_s,
    )  # fmt: skip


def _place(
    parts: list[_Syllable], lengths: dict[tuple[int, int], float], names: dict[tuple[int, int], str]
) -> list[PlacedPhoneme]:
    out: list[PlacedPhoneme] = []

    def emit(keys: list[tuple[int, int]], start_s: float, end_s: float) -> None:
        total_s = sum(lengths[k] for k in keys)
        at_s = start_s
        for key in keys:
            next_s = at_s + (end_s - start_s) * lengths[key] / total_s
            out.append(PlacedPhoneme(names[key], *key, at_s, next_s))
            at_s = next_s

    for i, part in enumerate(parts):
        onset = [(part.word, p) for p in part.onset]
        if i == 0 and onset:
            natural_s = sum(lengths[k] for k in onset)
            emit(onset, part.start_s - min(natural_s, max(0.08, part.start_s - 0.01)), part.start_s)
        coda = [(part.word, p) for p in part.coda]
        coda_s = sum(lengths[k] for k in coda)
        following = parts[i + 1] if i + 1 < len(parts) else None
        joined = following is not None and (
            following.word == part.word or following.start_s - part.end_s < _GAP_S
        )
        key = (part.word, part.nucleus)
        if following is not None and joined:
            after = [(following.word, p) for p in following.onset]
            cluster = coda + after
            between_s = following.start_s - part.start_s
            cluster_s = min(sum(lengths[k] for k in cluster), _CLUSTER_SHARE * between_s)
            emit([key], part.start_s, following.start_s - cluster_s)
            if cluster:
                emit(cluster, following.start_s - cluster_s, following.start_s)
        else:
            late_s = min(_LATE_CODA_S, coda_s)
            coda_s = min(coda_s, _CLUSTER_SHARE * (part.end_s - part.start_s) + late_s)
            emit([key], part.start_s, part.end_s + late_s - coda_s)
            if coda:
                emit(coda, part.end_s + late_s - coda_s, part.end_s + late_s)
            if following is not None:
                before = [(following.word, p) for p in following.onset]
                free_s = following.start_s - part.end_s - late_s
                natural_s = min(sum(lengths[k] for k in before), max(0.05, free_s))
                if before:
                    emit(before, following.start_s - natural_s, following.start_s)
    return out
