"""Musical defects: each moves what it spoils by a stated amount, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt

from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.listening import listen

BPM, DURATION_S = 100.0, 24.0
PROGRESSIONS = {"verse": (0, 5, 9, 7), "chorus": (5, 7, 0, 9)}
STAYS = {
    "bpm": 0.03,
    "beat": 0.12,
    "loudness_lufs": 1.0,
    "true_peak_dbtp": 1.5,
    "duration_s": 0.5,
    "silence": 0.02,
    "longest_silence_s": 0.1,
    "flat_tops": 1e-4,
    "stereo_width": 0.03,
    "dc_offset": 0.001,
    "bandwidth_hz": 100.0,
    "loop": 0.1,
    "recurrence": 0.05,
    "longest_still_s": 0.3,
}
"""How far a figure may move (the tempo: relative) under a defect that is not its own."""


@cache
def song(*, bpm: float = BPM, semitones: int = 0) -> Wave:
    """Drums, chords and a melody of a verse and a chorus, in C major unless moved."""
    generator = np.random.default_rng(1)
    num = int(DURATION_S * SAMPLE_RATE_HZ)
    wave_CN = generator.normal(0, 1e-4, (2, num))
    beat_s = 60 / bpm
    for beat in range(int(DURATION_S / beat_s)):
        at = int(beat * beat_s * SAMPLE_RATE_HZ)
        names = PROGRESSIONS["verse" if beat * beat_s < DURATION_S / 2 else "chorus"]
        root = names[beat // 2 % 4]
        third = 3 if root in (9,) else 4
        notes = [36 + root, 48 + root, 48 + root + third, 55 + root]
        notes.append(60 + int(generator.choice([0, 2, 4, 5, 7, 9, 11])))
        _add(wave_CN, at, _notes([note + semitones for note in notes], beat_s), (1.0, 0.7))
        burst = generator.normal(0, 0.3, 4000) * np.exp(-np.arange(4000) / 500)
        _add(wave_CN, at, burst * (1.0 if beat % 2 else 0.6), (0.8, 1.0))
    return (0.5 * wave_CN).astype(np.float32)


def _notes(notes: list[int], duration_s: float) -> np.ndarray:
    seconds = np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    waves = [
        0.06 / partial * np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * partial * seconds)
        for note in notes
        for partial in (1, 2, 3)
    ]
    return np.sum(waves, axis=0) * np.exp(-2 * seconds)


def _add(wave_CN: np.ndarray, at: int, sound_N: np.ndarray, gains: tuple[float, float]) -> None:
    length = min(sound_N.size, wave_CN.shape[1] - at)
    for channel, gain in enumerate(gains):
        wave_CN[channel, at : at + length] += gain * sound_N[:length]


def looped(wave_CN: Wave) -> Wave:
    """Two seconds and nothing else."""
    two_s = wave_CN[:, 4 * SAMPLE_RATE_HZ : 6 * SAMPLE_RATE_HZ]
    return np.tile(two_s, (1, int(DURATION_S / 2)))


def held(wave_CN: Wave) -> Wave:
    """The last six seconds stand still on one tone."""
    stuck_CN = wave_CN.copy()
    seconds = np.arange(6 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    stuck_CN[:, -6 * SAMPLE_RATE_HZ :] = 0.1 * np.sin(2 * np.pi * 261.6 * seconds)
    return stuck_CN


def interrupted(wave_CN: Wave) -> Wave:
    """Three seconds in the middle are missing."""
    silent_CN = wave_CN.copy()
    silent_CN[:, 10 * SAMPLE_RATE_HZ : 13 * SAMPLE_RATE_HZ] = 0
    return silent_CN


def dull(wave_CN: Wave) -> Wave:
    """Nothing above 3 kHz."""
    sos = butter(8, 3_000, fs=SAMPLE_RATE_HZ, output="sos")
    return np.asarray(sosfiltfilt(sos, wave_CN, axis=1), dtype=np.float32)


def with_chorus_twice(wave_CN: Wave) -> Wave:
    """Chorus, verse, chorus: 24 of 36 seconds come back."""
    half = wave_CN.shape[1] // 2
    return np.concatenate([wave_CN[:, half:], wave_CN], axis=1)


DEFECTS: Mapping[str, tuple[Callable[[], Wave], dict[str, object]]] = {
    "three semitones up": (lambda: song(semitones=3), {"key": "D# major"}),
    "a fifth faster": (lambda: song(bpm=120.0), {"bpm": 120.0, "beat": None, "loop": None}),
    "clipped": (
        lambda: np.clip(song(), -0.12, 0.12),
        {"flat_tops": 0.0042, "loudness_lufs": None, "true_peak_dbtp": None},
    ),
    "at half the amplitude": (
        lambda: 0.5 * song(),
        {"loudness_lufs": -32.3, "true_peak_dbtp": -10.8},
    ),
    "an offset of .05": (lambda: song() + np.float32(0.05), {"dc_offset": 0.05}),
    "opposite phases": (
        lambda: song() * np.array([[1], [-1]], np.float32),
        {"stereo_width": 0.97},
    ),
    "interrupted for three seconds": (
        lambda: interrupted(song()),
        {"silence": 3 / 24, "longest_silence_s": 3.0},
    ),
    "nothing above 3 kHz": (
        lambda: dull(song()),
        {"bandwidth_hz": 4_032.0, "true_peak_dbtp": None, "loop": None},
    ),
    "the chorus twice": (
        lambda: with_chorus_twice(song()),
        {"recurrence": 24 / 36, "duration_s": 36.0},
    ),
    "mono": (lambda: np.repeat(song().mean(0, keepdims=True), 2, 0), {"stereo_width": 0.0}),
    "a loop of two seconds": (
        lambda: looped(song()),
        {"loop": 1.0, "recurrence": 1.0, "bpm": None, "beat": None, "key": None,
         "loudness_lufs": None},
    ),
    "stuck at the end": (
        lambda: held(song()),
        {"longest_still_s": 5.9, "loop": None, "beat": None, "key": None, "loudness_lufs": None,
         "stereo_width": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_moves_its_own_figure_by_its_amount(name: str) -> None:
    """A metric that cannot fail is decoration, and one that fails with everything is noise."""
    make, moved = DEFECTS[name]
    before, after = asdict(listen(song())), asdict(listen(make()))
    assert before["key"] == "C major"
    assert before["bpm"] == pytest.approx(BPM, rel=0.02)
    for figure, wanted in moved.items():
        if isinstance(wanted, float):
            assert after[figure] == pytest.approx(wanted, rel=0.05, abs=5e-4), figure
        elif wanted is not None:
            assert after[figure] == wanted, figure
    for figure, least in STAYS.items():
        if figure not in moved:
            scale = BPM if figure == "bpm" else 1.0
            assert abs(after[figure] - before[figure]) <= least * scale, figure
    if "key" not in moved:
        assert after["key"] == before["key"]
