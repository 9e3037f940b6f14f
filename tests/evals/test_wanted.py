"""What a request says in numbers and names, and nothing that it does not say."""

from __future__ import annotations

import numpy as np
import pytest

from khala.evals.listening import listen
from khala.evals.wanted import Wanted, agreement


@pytest.mark.parametrize(
    ("prompt", "bpm", "key"),
    [
        ("pop, 100 bpm, F# minor", 100.0, "F# minor"),
        ("a waltz in E flat major at 92.5 BPM", 92.5, "Eb major"),
        ("126 beats per minute, b♭ min", 126.0, "Bb minor"),
        ("C-sharp minor ballad", None, "C# minor"),
        ("fast, 90s, minor, from 1975", None, None),
        ("first 80 bpm, then 120 bpm; A major and A minor", None, None),
        ("1000 bpm", None, None),
        ("100-120 bpm, in a minor key", None, None),
        ("between 90 and 100 bpm", None, None),
        ("90 – 95 bpm, A major hit from Bb", None, None),
        ("a minor classic", None, None),
        ("a ballad in A minor with piano", None, "A minor"),
        ("A minor, 95-piece orchestra, 80 bpm", 80.0, "A minor"),
        ("slow and sad c minor", None, "C minor"),
    ],
)
def test_tempo_and_key_are_read_where_they_have_one_meaning(
    prompt: str, bpm: float | None, key: str | None
) -> None:
    """A decade taken for a tempo condemns a song that did what it was told."""
    wanted = Wanted.of_prompt(prompt)
    assert (wanted.bpm, wanted.key) == (bpm, key)


def test_who_sings_is_asked_by_words_or_by_lyrics() -> None:
    """Nothing said is nothing to be judged by."""
    assert Wanted.of_prompt("pop").instrumental is None
    assert Wanted.of_prompt("instrumental pop").instrumental is True
    assert Wanted.of_prompt("jazz, no vocals").instrumental is True
    assert Wanted.of_prompt("instrumental break", lyrics="la la").instrumental is False
    assert Wanted.of_prompt("pop", instrumental=True).instrumental is True


def test_each_wish_is_judged_by_itself() -> None:
    """A wrong length must not make the singing wrong."""
    noise_CN = np.random.default_rng(0).normal(0, 0.1, (2, 44_100 * 6)).astype(np.float32)
    heard = listen(noise_CN)
    wanted = Wanted(duration_s=6.5, bpm=heard.bpm * 2, key="C major", instrumental=True)
    found = agreement(heard, wanted, 2)
    assert found["duration_right"] is True
    assert (found["tempo_right"], found["tempo_right_octaves"]) == (False, True)
    assert (found["sings"], found["singing_right"]) == (False, True)
    assert agreement(heard, wanted, 30)["singing_right"] is False
    assert agreement(heard, wanted, None)["singing_right"] is None
    assert agreement(heard, wanted, None, voice_heard=True)["singing_right"] is False
    assert agreement(heard, wanted, 2, voice_heard=True)["singing_right"] is True
    nothing_said = agreement(heard, Wanted(), 30)
    assert {key for key, value in nothing_said.items() if value is not None} == {"sings"}
    assert agreement(heard, Wanted(duration_s=5.0), None)["duration_right"] is False
