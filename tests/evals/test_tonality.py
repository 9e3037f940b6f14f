"""A song in one key, moved or made aimless, must be named so."""

from __future__ import annotations

import numpy as np
import pytest

from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.tonality import PITCHES, find_key, pitch_classes, same_key

MAJOR_CHORDS = ((0, 4, 7), (5, 9, 12), (7, 11, 14), (9, 12, 16), (0, 4, 7))
MINOR_CHORDS = ((0, 3, 7), (5, 8, 12), (7, 11, 14), (8, 12, 15), (0, 3, 7))
CHORD_S = 1.0


def chords(tonic: int, shapes: tuple[tuple[int, ...], ...], bass: bool = True) -> Wave:
    """Chords of three harmonics each, with the root in the bass."""
    seconds = np.arange(int(CHORD_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    parts = []
    for shape in shapes * 2:
        notes = [48 + tonic + step for step in shape] + ([36 + tonic + shape[0]] if bass else [])
        part = np.zeros(seconds.size)
        for note in notes:
            hz = 440.0 * 2 ** ((note - 69) / 12)
            for harmonic in (1, 2, 3):
                part += 0.05 / harmonic * np.sin(2 * np.pi * hz * harmonic * seconds)
        parts.append(part * np.exp(-seconds))
    wave_N = np.concatenate(parts)
    return np.stack([wave_N, wave_N]).astype(np.float32)


@pytest.mark.parametrize("tonic", range(12))
@pytest.mark.parametrize(("mode", "shapes"), [("major", MAJOR_CHORDS), ("minor", MINOR_CHORDS)])
def test_every_key_is_found(tonic: int, mode: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    """A song a semitone off is in another key, whatever else is right."""
    found = find_key(chords(tonic, shapes))
    assert same_key(found.name, f"{PITCHES[tonic]} {mode}")
    assert found.clarity > 0.1


def test_noise_has_no_clear_key() -> None:
    """A song without harmony must not be praised for being in D."""
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 6 * SAMPLE_RATE_HZ)).astype(np.float32)
    assert find_key(noise).clarity < 0.1
    silence = find_key(np.zeros((2, SAMPLE_RATE_HZ), dtype=np.float32))
    assert silence.name == ""
    assert silence.clarity == 0.0


def test_detuned_by_a_quarter_tone_counts_less() -> None:
    """Between two notes there is no pitch class."""
    in_tune = chords(0, MAJOR_CHORDS)
    length = in_tune.shape[1]
    places = np.arange(0, length - 1, 2 ** (0.5 / 12))
    off_N = np.interp(places, np.arange(length), in_tune[0]).astype(np.float32)
    strong, weak = pitch_classes(in_tune), pitch_classes(np.stack([off_N, off_N]))
    assert strong.max() > 1.2 * weak.max()


def test_keys_are_spelled_both_ways() -> None:
    """Gb major and F# major are the same keys of a piano."""
    assert same_key("Gb major", "F# major")
    assert not same_key("G major", "G minor")
    assert not same_key("", "")
