"""Each fault a listener would hear must be found, and music must not be accused of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from khala.evals import listening
from khala.evals.distances import SAMPLE_RATE_HZ, Wave


def drums(bpm: float, duration_s: float = 12.0, seed: int = 0) -> Wave:
    """Noise bursts on every beat, weaker ones between, and a tune of random notes."""
    generator = np.random.default_rng(seed)
    num_samples = int(duration_s * SAMPLE_RATE_HZ)
    seconds = np.arange(num_samples) / SAMPLE_RATE_HZ
    wave_N = generator.normal(0, 1e-3, num_samples)
    beat_s = 60 / bpm
    for index in range(int(duration_s / beat_s * 2)):
        first = int(index * beat_s / 2 * SAMPLE_RATE_HZ)
        length = min(3000, num_samples - first)
        loud = 0.4 if index % 2 == 0 else 0.1
        burst = generator.normal(0, loud, length) * np.exp(-np.arange(length) / 600)
        wave_N[first : first + length] += burst
    for index in range(int(duration_s / beat_s)):
        hz = 220 * 2 ** (generator.integers(0, 24) / 12)
        note = (seconds >= index * beat_s) & (seconds < (index + 1) * beat_s)
        wave_N[note] += 0.1 * np.sin(2 * np.pi * hz * seconds[note])
    return np.stack([wave_N, wave_N]).astype(np.float32)


def tone(duration_s: float) -> Wave:
    seconds = np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return np.tile(0.2 * np.sin(2 * np.pi * 440 * seconds), (2, 1)).astype(np.float32)


def test_music_has_no_faults() -> None:
    """A detector that cries wolf would make every song of the table look broken."""
    heard = listening.listen(drums(100))
    assert heard.faults() == []
    assert heard.flux > 0.01
    assert heard.duration_s == pytest.approx(12.0)


def test_a_stuck_tone_is_heard() -> None:
    """The commonest failure of a token model: one chord until the end."""
    heard = listening.listen(tone(6.0))
    assert heard.longest_still_s > 5
    assert "stuck" in heard.faults()
    assert heard.flux < 0.01


def test_silence_is_heard_inside_a_song_but_not_at_its_end() -> None:
    """A hole of three seconds is a fault; a fade-out is not."""
    wave_CN = drums(120)
    hole_CN = wave_CN.copy()
    hole_CN[:, 4 * SAMPLE_RATE_HZ : 7 * SAMPLE_RATE_HZ] = 0
    assert "silent" in listening.listen(hole_CN).faults()
    end_CN = wave_CN.copy()
    end_CN[:, -2 * SAMPLE_RATE_HZ :] = 0
    heard = listening.listen(end_CN)
    assert heard.longest_silence_s < 0.3
    assert "silent" not in heard.faults()
    nothing = listening.listen(np.zeros_like(wave_CN))
    assert nothing.silence == 1.0
    assert math.isnan(nothing.bpm)


def test_clipping_is_heard_at_any_level() -> None:
    """A song clipped inside and turned down afterwards still crackles."""
    wave_CN = drums(120)
    clipped_CN = np.clip(4 * wave_CN, -0.5, 0.5)
    assert listening.flat_top_share(wave_CN) == 0.0
    assert "clipped" in listening.listen(clipped_CN).faults()


def test_a_loop_is_heard() -> None:
    """Half a second repeated to the end is not a song."""
    piece_CN = drums(120)[:, : SAMPLE_RATE_HZ // 2]
    looped_CN = np.tile(piece_CN, (1, 20))
    assert "looped" in listening.listen(looped_CN).faults()


@pytest.mark.parametrize("bpm", [72.0, 97.0, 124.0, 148.0])
def test_tempo_is_found(bpm: float) -> None:
    """A song at the wrong tempo is what the user did not ask for; a wrong estimate hides it."""
    found, strength = listening.tempo(listening.mel_frames(drums(bpm, seed=int(bpm))))
    assert strength > 0.3
    assert listening.tempo_agrees(found, bpm, octaves=True)
    if bpm > 90:  # below, the weaker hits between the beats may well be counted
        assert listening.tempo_agrees(found, bpm, octaves=False, tolerance=0.02)


def test_tempo_agreement_knows_octaves() -> None:
    """Double time is a matter of counting; five per cent is not."""
    assert listening.tempo_agrees(102.0, 100.0, octaves=False)
    assert not listening.tempo_agrees(106.0, 100.0, octaves=True)
    assert listening.tempo_agrees(198.0, 100.0, octaves=True)
    assert not listening.tempo_agrees(198.0, 100.0, octaves=False)
    assert not listening.tempo_agrees(math.nan, 100.0, octaves=True)
