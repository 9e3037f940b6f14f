"""Levels: what reaches the listener's ears must neither clip nor jump from song to song."""

from __future__ import annotations

import numpy as np
import pytest

from khala.synth.mix import (
    RATE_HZ,
    TARGET_LUFS,
    limiter_gain,
    loudness_lufs,
    mix_song,
    oversampled_peaks,
    true_peak_dbtp,
)


def _band(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise with hard transients: the worst a limiter meets."""
    rng = np.random.default_rng(seed)
    num = int(seconds * RATE_HZ)
    wave = 0.03 * rng.standard_normal((2, num))
    for start in range(0, num - 4000, RATE_HZ // 2):
        wave[:, start : start + 4000] += np.exp(-np.arange(4000) / 300.0) * rng.choice((-1, 1))
    return wave.astype(np.float32)


def _vocals(seconds: float) -> np.ndarray:
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    tone = sum(np.sin(2 * np.pi * 220 * h * t) / h for h in range(1, 20))
    return (0.1 * tone * (t % 2 < 1.2)).astype(np.float32)


@pytest.mark.parametrize("over_db", [4.0, 6.5])
def test_songs_come_out_at_the_same_loudness_without_clipping(over_db: float) -> None:
    """-14 LUFS within half a unit and true peaks at most -1 dBTP."""
    mix = mix_song(_vocals(6.0), _band(6.0), vocal_over_band_db=over_db, seed=1)
    assert loudness_lufs(mix.mix_CN) == pytest.approx(TARGET_LUFS, abs=0.5)
    assert true_peak_dbtp(mix.mix_CN) <= -1.0
    assert mix.mix_CN.dtype == np.float32


def test_stems_add_up_to_the_mix() -> None:
    """Whoever trains on stems must hear in them exactly what is in the mix."""
    mix = mix_song(_vocals(4.0), _band(4.0), vocal_over_band_db=5.0, seed=1)
    np.testing.assert_allclose(mix.vocals_N + mix.band_CN, mix.mix_CN, atol=1e-6)


def test_the_voice_is_in_front() -> None:
    """Words under the band cannot be learnt from the mix."""
    mix = mix_song(_vocals(6.0), _band(6.0), vocal_over_band_db=6.0, seed=1)
    sung = np.abs(mix.vocals_N) > 1e-3
    voice = float(np.mean(mix.vocals_N[sung] ** 2))
    band = float(np.mean(mix.band_CN[:, sung] ** 2))
    assert 10 * np.log10(voice / band) > 3.0


def test_stems_that_cancel_still_fit_their_files() -> None:
    """Where voice and band pull against each other, each alone is louder than their sum."""
    t = np.arange(4 * RATE_HZ) / RATE_HZ
    tone = np.sin(2 * np.pi * 400 * t).astype(np.float32)
    band = 0.02 * _band(4.0) - np.stack([tone, tone])
    mix = mix_song(tone * 0.5, band, vocal_over_band_db=-0.5, seed=1)
    assert np.abs(mix.band_CN).max() > np.abs(mix.mix_CN).max()
    assert np.abs(mix.band_CN).max() <= 1.0
    assert np.abs(mix.vocals_N).max() <= 1.0


def test_the_limiter_never_lets_a_peak_through() -> None:
    """By construction: at every sample the gain is at most what that sample needs."""
    peaks = oversampled_peaks(_band(2.0))
    gain = limiter_gain(peaks, 2.5, 0.86)
    assert np.all(peaks * 2.5 * gain <= 0.86 * (1 + 1e-4))
    assert gain.max() <= 1.0 + 1e-6


def test_peaks_between_samples_are_seen() -> None:
    """A sine at a quarter of the rate peaks 3 dB above its samples, and so does a speaker."""
    n = np.arange(RATE_HZ)
    wave = (0.5 * np.sin(np.pi / 2 * n + np.pi / 4)).astype(np.float32)[None]
    middle = oversampled_peaks(wave)[1000:-1000].max()
    assert middle == pytest.approx(0.5, rel=0.02)


def test_an_instrumental_has_no_voice() -> None:
    """Reverb or gain must not invent one."""
    silence = np.zeros(4 * RATE_HZ, dtype=np.float32)
    mix = mix_song(silence, _band(4.0), vocal_over_band_db=5.0, seed=1)
    assert not np.any(mix.vocals_N)
