"""What a request names, and nothing that it does not name."""

from __future__ import annotations

import numpy as np
import pytest

from khala.evals.named import names_in, score_names
from khala.evals.tagger import HeardTags, TaggerConfig
from khala.evals.wanted import Wanted

CONFIG = TaggerConfig(
    instruments=("clean guitar", "drums", "electric piano", "nylon guitar", "piano", "synth pad"),
    styles=("lo-fi", "pop", "r&b", "rock"),
)
NAMES = (*CONFIG.instruments, "guitar")


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("pop, piano, drums, 100 bpm", ("piano", "drums")),
        ("Electric  Piano and DRUMS", ("electric piano", "drums")),
        ("a clean guitar over a synth pad.", ("clean guitar", "synth pad")),
        ("guitar, piano; piano", ("guitar", "piano")),
        ("piano-driven, synth-pad, drumsticks, pianos", ()),
        ("a bass guitar", ("guitar",)),
        ("guitar drums", ()),
        ("dreamy, from 1975", ()),
        ("", ()),
        ("no drums, piano", ("piano",)),
        ("without any drums or piano, with guitar", ("guitar",)),
        ("piano in the verse, no piano in the chorus", ()),
    ],
)
def test_whole_names_are_read_and_nothing_is_guessed(prompt: str, named: tuple[str, ...]) -> None:
    """A song is not to be condemned for a piano that nobody asked for."""
    assert names_in(prompt, NAMES) == named


def heard(*instruments: str, style: str = "pop") -> HeardTags:
    return HeardTags(
        instruments=instruments,
        style=style,
        sings=True,
        chances_I=np.zeros(6, np.float32),
        sings_chance=0.9,
    )


def test_a_prompt_is_held_against_what_is_heard() -> None:
    """Precision and recall must each be about the right one of the two lists."""
    found = score_names(
        heard("piano", "drums", "synth pad"), Wanted.of_prompt("Pop, piano, clean guitar"), CONFIG
    )
    assert found["instruments_heard"] == ["piano", "drums", "synth pad"]
    assert found["wanted_instruments"] == ["piano", "clean guitar"]
    assert found["instruments_precision"] == pytest.approx(1 / 3)
    assert found["instruments_recall"] == pytest.approx(1 / 2)
    assert (found["style_heard"], found["wanted_style"], found["style_right"]) == (
        "pop",
        "pop",
        True,
    )


def test_any_guitar_is_a_guitar() -> None:
    """Who asks for a guitar did not say which: the nylon one is right, and it is found."""
    found = score_names(heard("nylon guitar"), Wanted.of_prompt("guitar, lo-fi"), CONFIG)
    assert (found["instruments_precision"], found["instruments_recall"]) == (1.0, 1.0)
    assert found["style_right"] is False
    other = score_names(heard("electric piano"), Wanted.of_prompt("piano"), CONFIG)
    assert (other["instruments_precision"], other["instruments_recall"]) == (0.0, 0.0)


def test_nothing_named_is_nothing_to_be_judged_by() -> None:
    """A prompt without names, or with two styles, has no right and no wrong."""
    for prompt in ("", "dreamy", "pop to rock"):
        found = score_names(heard("piano"), Wanted.of_prompt(prompt), CONFIG)
        judged = ("wanted_instruments", "instruments_precision", "instruments_recall",
                  "wanted_style", "style_right")  # fmt: skip
        assert all(found[name] is None for name in judged), prompt
    silent = score_names(heard(style=""), Wanted.of_prompt("piano, r&b"), CONFIG)
    assert silent["instruments_precision"] is None
    assert (silent["instruments_recall"], silent["style_right"]) == (0.0, False)


def test_the_truth_counts_before_the_words() -> None:
    """A corpus knows what plays; its description is prose. What cannot be heard is not judged."""
    wanted = Wanted(instruments=("drums", "flute"), style="polka", prompt="piano, pop")
    found = score_names(heard("drums"), wanted, CONFIG)
    assert found["wanted_instruments"] == ["drums"]
    assert (found["instruments_precision"], found["instruments_recall"]) == (1.0, 1.0)
    assert found["style_right"] is None
