"""The same recording again, whatever was done to it; and no other one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt

from khala.audio import read_audio, write_audio
from khala.corpus.fingerprint import find_duplicates, landmarks

RATE_HZ = 44_100


def tune(seed: int, seconds: float = 12.0) -> np.ndarray:
    """Return notes that no other seed has."""
    generator = np.random.default_rng(seed)
    times_N = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave_N = generator.normal(0, 0.003, times_N.size)
    for start_s in np.arange(0, seconds, 0.25):
        length = min(2 * RATE_HZ, times_N.size - int(start_s * RATE_HZ))
        note_N = times_N[:length]
        hz = 220 * 2 ** (generator.integers(0, 36) / 12)
        at = int(start_s * RATE_HZ)
        for partial in range(1, 9):
            turns_N = partial * hz * note_N
            wave_N[at : at + length] += 0.05 * np.exp(-4 * note_N) * np.sin(2 * np.pi * turns_N)
    return np.stack([wave_N, 0.8 * wave_N]).astype(np.float32)


def lossy(wave_CN: np.ndarray, folder: Path) -> np.ndarray:
    write_audio(folder / "a.mp3", wave_CN, sample_rate_hz=RATE_HZ)
    return read_audio(folder / "a.mp3")


def test_what_was_done_to_a_recording_does_not_hide_it(tmp_path: Path) -> None:
    """A song that is in the train split in MP3 must not be a test song in FLAC."""
    wave_CN = tune(1)
    low = butter(6, 4_000, fs=RATE_HZ, output="sos")
    noise = np.random.default_rng(5).normal(0, wave_CN.std() / 10, wave_CN.shape)
    changed = {
        "quieter": 0.2 * wave_CN,
        "mono": wave_CN.mean(axis=0, keepdims=True),
        "cut at both ends": wave_CN[:, int(1.37 * RATE_HZ) : -3 * RATE_HZ],
        "silence before": np.pad(wave_CN, ((0, 0), (5 * RATE_HZ, 0))),
        "no highs": sosfiltfilt(low, wave_CN, axis=1),
        "noise": wave_CN + noise,
        "MP3": lossy(wave_CN, tmp_path),
    }
    others = [landmarks(tune(seed)) for seed in range(20, 40)]
    for name, other_CN in changed.items():
        songs = [*others, landmarks(wave_CN), landmarks(other_CN.astype(np.float32))]
        (found,) = find_duplicates(songs)
        assert (found.index, found.of) == (21, 20), name
        assert found.shared > 0.1, name


def test_other_songs_are_others() -> None:
    """Somebody's music must not be thrown away for sounding like somebody else's."""
    assert find_duplicates([landmarks(tune(seed)) for seed in range(12)]) == []
    beat_CN = tune(99, 2.0)
    with_one_sample = [
        landmarks(np.concatenate([tune(seed, 8.0), beat_CN], axis=1)) for seed in (3, 4)
    ]
    assert find_duplicates(with_one_sample) == []


def test_several_copies_point_to_the_first() -> None:
    """Which of the copies is kept must not depend on chance."""
    one = landmarks(tune(1))
    found = find_duplicates([landmarks(tune(2)), one, one, landmarks(tune(3)), one])
    assert [(duplicate.index, duplicate.of) for duplicate in found] == [(2, 1), (4, 1)]
    assert find_duplicates([]) == []


@pytest.mark.parametrize("num_samples", [0, 1, 5_000, RATE_HZ])
def test_silence_and_moments_have_no_landmarks_in_common(num_samples: int) -> None:
    """Two silent files are no evidence of anything."""
    silent = landmarks(np.zeros((2, num_samples), np.float32))
    assert silent.shape == (0, 2)
    assert find_duplicates([silent, silent, landmarks(tune(1))]) == []
