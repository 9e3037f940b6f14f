"""Words left out and words sung again: a known defect moves its own figure by a known amount."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from khala.evals.recogniser import Recogniser, RecogniserConfig
from khala.evals.sung import repeated_phonemes, score_words, skipped_words

LINE = [tuple(word) for word in ("abc", "de", "fgh", "ij", "klm", "no")]
SOUNDS = [sound for word in LINE for sound in word]


def test_words_left_out_are_counted() -> None:
    """A mumbled song has a fair error rate and half its words missing."""
    assert skipped_words(SOUNDS, LINE) == 0
    without_two = [sound for word in (*LINE[:2], *LINE[4:]) for sound in word]
    assert skipped_words(without_two, LINE) == 2
    blurred = ["x" if sound in "bgl" else sound for sound in SOUNDS]
    assert skipped_words(blurred, LINE) == 0
    assert skipped_words([], LINE) == len(LINE)


def test_a_line_sung_again_is_counted() -> None:
    """A model that loses its place sings the first line twice."""
    assert repeated_phonemes(SOUNDS, SOUNDS) == 0
    again = [*SOUNDS[:9], *SOUNDS[:9], *SOUNDS[9:]]
    assert repeated_phonemes(again, SOUNDS) == 9
    babble = [*SOUNDS[:9], *"uvwxyzuv", *SOUNDS[9:]]
    assert repeated_phonemes(babble, SOUNDS) == 0
    assert repeated_phonemes([*SOUNDS, *SOUNDS], [*SOUNDS, *SOUNDS]) == 0


def test_the_ceiling_is_other_songs_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error rate means nothing without what wrong lyrics would have scored."""
    ear = Recogniser(RecogniserConfig(phonemes=tuple("aisu"), width=8, dilations=(1,)))
    ear.words = {"sa": ("s", "a"), "si": ("s", "i"), "ua": ("u", "a")}
    monkeypatch.setattr(ear, "recognise", lambda _: list("sasiua"))
    wave_CN: Any = np.zeros((2, 10), np.float32)
    found = score_words(wave_CN, "[Verse]\nsa si ua oh", ["ua ua ua", "sa si ua oh"], ear)
    assert (found["per"], found["words"], found["unknown_words"]) == (0.0, 3, 1)
    assert (found["words_skipped"], found["phonemes_repeated"]) == (0, 0)
    assert found["per_shuffled"] > 0
    assert found["skipped_shuffled"] == pytest.approx(1 / 6)
    alone = score_words(wave_CN, "sa si", ["sa si"], ear)
    assert alone["per_shuffled"] is None
    assert score_words(wave_CN, "", ["sa"], ear) == {
        "phonemes_heard": 6,
        "per": None,
        "per_shuffled": None,
    }
