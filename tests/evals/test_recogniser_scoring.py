"""Error rates decide whether a song is said to sing its lyrics: they must be plain arithmetic."""

from __future__ import annotations

import random

import pytest

from khala.evals.recogniser.lyrics import lyric_words, pronounce, sung_phonemes
from khala.evals.recogniser.scoring import (
    edit_distance,
    error_rate,
    most_confused,
    shuffled_error_rate,
)


def slow_distance(heard: str, wanted: str) -> int:
    row = list(range(len(wanted) + 1))
    for i, one in enumerate(heard, start=1):
        new = [i]
        for j, other in enumerate(wanted, start=1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (one != other)))
        row = new
    return row[-1]


def test_edit_distance_equals_the_textbook() -> None:
    """The fast form must not be a different metric."""
    generator = random.Random(0)
    for _ in range(100):
        heard = "".join(generator.choices("abcd", k=generator.randrange(12)))
        wanted = "".join(generator.choices("abcd", k=generator.randrange(12)))
        assert edit_distance(list(heard), list(wanted)) == slow_distance(heard, wanted)


def test_error_rate_weighs_songs_by_their_words() -> None:
    """One short song must not outweigh a long one."""
    rate = error_rate([list("ab"), list("xxxx"), list("zz")], [list("ab"), list("abcdef"), []])
    assert rate.per == pytest.approx(6 / 8)
    assert (rate.num_songs, rate.num_phonemes) == (2, 8)
    assert rate.standard_error > 0


def test_shuffled_lyrics_score_worse_than_the_right_ones() -> None:
    """Without a ceiling from wrong lyrics, a low rate may only mean that songs are alike."""
    songs = [list("abab"), list("cdcd"), list("efef")]
    assert error_rate(songs, songs).per == 0.0
    assert shuffled_error_rate(songs, songs).per == 1.0
    with pytest.raises(ValueError, match="two songs"):
        shuffled_error_rate(songs[:1], songs[:1])
    with pytest.raises(ValueError, match="no phonemes"):
        error_rate([["a"]], [[]])


def test_confusions_name_what_was_sung_first() -> None:
    """A reader who sees them the wrong way round would fix the wrong phoneme."""
    assert most_confused([list("abx")], [list("aby")]) == [("y", "x", 1)]
    assert most_confused([list("ab")], [list("abc")]) == [("c", "", 1)]


def test_section_tags_and_case_are_not_sung() -> None:
    """A generated song that does not sing "chorus" would be counted as wrong."""
    lyrics = "[Verse 1]\nDon\u2019t stop, NOW!\n\n[Chorus]\nla-la\n"
    assert lyric_words(lyrics) == ["don't", "stop", "now", "la", "la"]
    known = {"stop": ("s", "t", "o", "p"), "la": ("l", "a")}
    phonemes, unknown = pronounce(lyrics, known)
    assert phonemes == ["s", "t", "o", "p", "l", "a", "l", "a"]
    assert unknown == ["don't", "now"]


def test_phonemes_of_a_stretch_are_those_with_their_middle_in_it() -> None:
    """A clip cut inside a word must neither lose nor count its edge phonemes twice."""
    truth = {
        "phonemes": [
            {"phoneme": name, "start_s": at, "end_s": at + 1.0} for at, name in enumerate("abcd")
        ]
    }
    first = sung_phonemes(truth, end_s=1.6)
    second = sung_phonemes(truth, start_s=1.6)
    assert first + second == list("abcd")
    assert first == ["a", "b"]
