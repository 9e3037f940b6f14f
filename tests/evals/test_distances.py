"""Each known defect must move the metric made for it, by about what theory says."""

from __future__ import annotations

import numpy as np
import pytest

from khala.evals import distances
from khala.evals.distances import SAMPLE_RATE_HZ, Wave


@pytest.fixture
def music() -> Wave:
    """One second of a stereo harmonic tone with some noise at every frequency."""
    generator = np.random.default_rng(3)
    seconds = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tone = sum(0.2 / n * np.sin(2 * np.pi * 180 * n * seconds) for n in range(1, 24))
    noise = generator.normal(0, 0.01, (2, seconds.size))
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 1.5 * seconds)
    return np.asarray(np.stack([tone, 0.6 * tone]) * swell + noise, dtype=np.float32)


def test_the_same_wave_is_at_distance_zero(music: Wave) -> None:
    """A perfect codec would otherwise be blamed for the metric's own error."""
    same = distances.measure(music, music.copy())
    assert same.mel80 == same.multi_stft == same.lsd_db == 0.0
    assert same.stereo_db == same.loudness_db == 0.0
    assert same.si_sdr_db == distances.HIGHEST_DB
    assert same.sdr_1_4k_db == distances.HIGHEST_DB


def test_a_quieter_copy_moves_loudness_and_not_si_sdr(music: Wave) -> None:
    """Gain is a mastering choice: SI-SDR must not punish it, loudness must show it exactly."""
    quiet = distances.measure(music, np.asarray(music * 0.5, dtype=np.float32))
    assert quiet.loudness_db == pytest.approx(6.02, abs=0.05)
    assert quiet.si_sdr_db > 90
    assert quiet.mel80 == pytest.approx(0.301, abs=0.005)
    assert quiet.lsd_db == pytest.approx(6.02, abs=0.05)
    assert quiet.sdr_1_4k_db == pytest.approx(6.02, abs=0.05)
    assert quiet.stereo_db < 0.01


def test_noise_sets_the_signal_to_distortion_ratio(music: Wave) -> None:
    """An SDR that is off by decibels would decide wrongly between us and Opus."""
    generator = np.random.default_rng(5)
    noise = generator.normal(0, 1, music.shape)
    noise *= np.sqrt(np.mean(music**2) / np.mean(noise**2)) * 10 ** (-10 / 20)
    noisy = np.asarray(music + noise, dtype=np.float32)
    assert distances.si_sdr_db(music, noisy) == pytest.approx(10.0, abs=0.3)


def test_a_blurred_voice_band_moves_only_its_own_band(music: Wave) -> None:
    """A codec that smears 1-4 kHz makes words unintelligible while its mel distance looks good."""
    spectrum = np.fft.rfft(music)
    hz = np.fft.rfftfreq(music.shape[1], 1 / SAMPLE_RATE_HZ)
    band = (hz > 1100) & (hz < 3900)
    phases = np.exp(2j * np.pi * np.random.default_rng(1).random(spectrum.shape))
    blurred = np.fft.irfft(np.where(band, spectrum * phases, spectrum), music.shape[1])
    bands = distances.sdr_by_band_db(music, np.asarray(blurred, dtype=np.float32))
    assert bands["1-4k"] < 0.0
    assert bands["0-250"] > 25.0
    assert bands["4-12k"] > 10.0


def test_a_muffled_copy_moves_the_log_spectral_distance(music: Wave) -> None:
    """Missing highs are plainly heard, and SI-SDR hardly sees them."""
    spectrum = np.fft.rfft(music)
    hz = np.fft.rfftfreq(music.shape[1], 1 / SAMPLE_RATE_HZ)
    dull = np.asarray(np.fft.irfft(spectrum * (hz < 9000), music.shape[1]), dtype=np.float32)
    result = distances.measure(music, dull)
    assert result.lsd_db > 10
    assert result.si_sdr_db > 15
    assert result.sdr_1_4k_db > 20


def test_mono_is_seen_by_the_stereo_error_alone(music: Wave) -> None:
    """A codec that folds to mono must not pass because its spectrum is right."""
    wide = music.copy()
    wide[1] *= -0.2
    folded = np.repeat(wide.mean(axis=0, keepdims=True), 2, axis=0)
    assert distances.stereo_error_db(wide, folded) > 20
    assert distances.stereo_error_db(wide, 0.5 * wide) == pytest.approx(0.0, abs=1e-3)


def test_silence_and_flipped_polarity_stay_finite(music: Wave) -> None:
    """One silent clip must not turn a whole table into NaN."""
    silent = np.zeros_like(music)
    for original, other in ((music, silent), (silent, music), (silent, silent), (music, -music)):
        values = [
            getattr(distances.measure(original, other), name)
            for name in distances.Distances.__dataclass_fields__
        ]
        assert np.isfinite(values).all()
    assert distances.si_sdr_db(music, -music) == distances.LOWEST_DB
    assert distances.sdr_by_band_db(music, -music)["1-4k"] == pytest.approx(-6.02, abs=0.1)


def test_waves_of_two_lengths_are_refused(music: Wave) -> None:
    """A clip cut by one frame would silently be compared with the wrong moment."""
    with pytest.raises(ValueError, match="one length"):
        distances.measure(music, music[:, :-1])
