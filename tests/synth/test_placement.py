"""Phonemes in song time."""

from __future__ import annotations

from itertools import pairwise

import pytest

from khala.errors import CorpusError
from khala.synth.compose import compose
from khala.synth.form import plan_song
from khala.synth.phonemes import is_vowel
from khala.synth.placement import PlacedPhoneme, SpokenWord, place_line
from khala.synth.score import Clock, Note, SungWord


def _word(text: str, phonemes: str, spans: list[tuple[float, float]]) -> SungWord:
    notes = tuple(Note(part="vocals", pitch=60, start=a, end=b) for a, b in spans)
    return SungWord(word=text, phonemes=tuple(phonemes.split()), line=0, notes=notes)


def _spoken(word: SungWord) -> SpokenWord:
    lengths = tuple(0.12 if is_vowel(p) else 0.07 for p in word.phonemes)
    return SpokenWord(word.phonemes, lengths)


def _place(words: list[SungWord], clock: Clock) -> list[PlacedPhoneme]:
    return place_line(list(enumerate(words)), [_spoken(w) for w in words], clock)


def test_vowels_start_on_their_notes_and_consonants_before() -> None:
    """Singers who put the consonant on the beat sound late."""
    clock = Clock(bpm=60.0)
    placed = _place(
        [_word("night", "N AY T", [(1, 2)]), _word("star", "S T AA R", [(2, 4)])], clock
    )
    starts = {p.phoneme: p.start_s for p in placed}
    assert starts["AY"] == pytest.approx(clock.seconds(1))
    assert starts["AA"] == pytest.approx(clock.seconds(2))
    assert starts["N"] < starts["AY"]
    assert starts["S"] < clock.seconds(2)


def test_consonants_keep_their_length_on_long_notes() -> None:
    """A stretched s is a hiss, a stretched t is nothing at all."""
    clock = Clock(bpm=60.0)
    placed = _place([_word("sing", "S IH NG", [(1, 5)])], clock)
    lengths = {p.phoneme: p.end_s - p.start_s for p in placed}
    assert lengths["S"] < 0.1
    assert lengths["IH"] > 3.5


def test_words_sung_in_one_breath_leave_no_holes() -> None:
    """A gap inside a phrase is heard as a click."""
    clock = Clock(bpm=90.0)
    words = [_word("river", "R IH V ER", [(0, 1), (1, 2)]), _word("bright", "B R AY T", [(2, 3)])]
    placed = _place(words, clock)
    for before, after in pairwise(placed):
        assert after.start_s == pytest.approx(before.end_s)


def test_every_song_is_ordered_and_leaves_room_for_vowels() -> None:
    """Phonemes of no length or out of order would be holes in the ground truth."""
    for index in range(3, 30):
        score = compose(plan_song(index, 2))
        lines: dict[int, list[tuple[int, SungWord]]] = {}
        for number, word in enumerate(score.words):
            lines.setdefault(word.line, []).append((number, word))
        end_s = 0.0
        for line in lines.values():
            placed = place_line(line, [_spoken(w) for _, w in line], score.plan.clock)
            assert placed[0].start_s >= end_s - 1e-9
            for before, after in pairwise(placed):
                assert after.start_s >= before.end_s - 1e-9
            assert all(p.end_s > p.start_s for p in placed)
            assert all(p.end_s - p.start_s > 0.1 for p in placed if is_vowel(p.phoneme))
            end_s = placed[-1].end_s


def test_a_word_with_other_syllables_than_notes_is_refused() -> None:
    """It would shift every following word onto the wrong note."""
    word = _word("river", "R IH V ER", [(0, 1)])
    with pytest.raises(CorpusError, match="syllables"):
        _place([word], Clock(bpm=90.0))
