"""The arithmetic songs that stand in for the real corpus in tests."""

from __future__ import annotations

import time

import numpy as np
import pytest

from khala.synth.tiny import render_tiny_song


def test_a_tiny_song_is_the_same_every_time() -> None:
    """Tests that compare trainings bit for bit start from these songs."""
    first, second = render_tiny_song(3, 7), render_tiny_song(3, 7)
    np.testing.assert_array_equal(first.mix.mix_CN, second.mix.mix_CN)
    assert first.truth == second.truth
    assert not np.array_equal(first.mix.mix_CN, render_tiny_song(3, 8).mix.mix_CN)


def test_ten_tiny_songs_take_no_time() -> None:
    """A slow fixture is paid for by every test that uses it."""
    render_tiny_song(0, 1)
    start = time.process_time()
    durations = [render_tiny_song(i, 1).truth["duration_s"] for i in range(10)]
    assert time.process_time() - start < 4.0
    assert all(2.0 <= d <= 4.6 for d in durations)


@pytest.mark.parametrize("index", [4, 5])
def test_the_tiny_voice_sings_its_notes(index: int) -> None:
    """A model that learns melody from these songs must find the melody of the truth in them."""
    song = render_tiny_song(index, 1)
    notes = [n for n in song.truth["notes"] if n["part"] == "vocals"]
    wave = song.mix.vocals_N
    errors = []
    for note in notes:
        middle = int(44100 * (note["start_s"] + 0.5 * (note["end_s"] - note["start_s"])))
        piece = wave[middle - 2205 : middle + 2205]
        expected = 440.0 * 2.0 ** ((note["pitch"] - 69) / 12)
        correlation = np.correlate(piece, piece, "full")[len(piece) - 1 :]
        low, high = int(44100 / expected / 1.12), int(44100 / expected * 1.12)
        lag = low + int(np.argmax(correlation[low:high]))
        errors.append(abs(12 * np.log2(44100 / lag / expected)))
    assert np.median(errors) < 0.5
