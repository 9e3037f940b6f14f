"""The mix: levels, room, limiter and loudness. All arrays are float32 at 44.1 kHz."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyloudnorm
import soxr
from scipy.ndimage import minimum_filter1d, uniform_filter1d
from scipy.signal import butter, oaconvolve, sosfilt

RATE_HZ = 44100
TARGET_LUFS = -14.0
CEILING_DBTP = -1.3
"""The limiter's own ceiling; the promise is -1.0, the rest is for rounding and smoothing."""

STEM_CEILING = 0.999
"""Highest sample of a stem on its own."""

_LOOKAHEAD_S = 0.003


@dataclass(frozen=True, slots=True)
class Mix:
    """A mixed song; ``vocals_N + band_CN`` is ``mix_CN``."""

    mix_CN: np.ndarray
    vocals_N: np.ndarray
    band_CN: np.ndarray
    lufs: float
    true_peak_dbtp: float


def loudness_lufs(wave_CN: np.ndarray) -> float:
    """Integrated loudness after ITU-R BS.1770."""
    return float(pyloudnorm.Meter(RATE_HZ).integrated_loudness(wave_CN.T))


def oversampled_peaks(wave_CN: np.ndarray) -> np.ndarray:
    """For each sample the highest magnitude of any channel in it, read at four times the rate."""
    peaks = np.zeros(wave_CN.shape[1], dtype=np.float32)
    for channel in wave_CN:
        fine = np.abs(soxr.resample(channel, RATE_HZ, 4 * RATE_HZ, quality="MQ"))
        fine = np.pad(fine, (0, max(0, 4 * len(channel) - len(fine))))[: 4 * len(channel)]
        for phase in range(4):
            np.maximum(peaks, fine[phase::4], out=peaks)
        np.maximum(peaks, np.abs(channel), out=peaks)
    return peaks


def true_peak_dbtp(wave_CN: np.ndarray) -> float:
    """The highest true peak in dB relative to full scale."""
    return 20.0 * math.log10(max(1e-9, float(oversampled_peaks(wave_CN).max())))


def limiter_gain(peaks_N: np.ndarray, gain: float, ceiling: float) -> np.ndarray:
    """The gain curve of a look-ahead limiter for a signal with these peaks after ``gain``."""
    need = np.minimum(1.0, ceiling / np.maximum(peaks_N * gain, 1e-9)).astype(np.float32)
    reach = int(_LOOKAHEAD_S * RATE_HZ)
    held = minimum_filter1d(need, 4 * reach + 1)
    # A mean over half the hold never rises above the need: no overshoot by construction.
    return np.asarray(uniform_filter1d(held, 2 * reach + 1), dtype=np.float32)


def room(num_samples: int, seconds: float, seed: int, channels: int) -> np.ndarray:
    """A short room: decaying noise after a small pre-delay, unit energy [channels, N]."""
    rng = np.random.Generator(np.random.PCG64(seed))
    length = min(num_samples, int(seconds * RATE_HZ))
    tail = rng.standard_normal((channels, length), dtype=np.float32)
    tail *= np.exp(-6.9 * np.arange(length, dtype=np.float32) / length)
    soft = butter(1, [250.0, 6000.0], "bandpass", fs=RATE_HZ, output="sos")
    tail = sosfilt(soft, tail).astype(np.float32)
    tail[:, : int(0.004 * RATE_HZ)] = 0.0
    return np.asarray(tail / np.sqrt((tail**2).sum(axis=1, keepdims=True)), dtype=np.float32)


def reverberate(wave_CN: np.ndarray, response_CN: np.ndarray, wet: float) -> np.ndarray:
    """Add a room to a sound; the length stays."""
    tail = oaconvolve(wave_CN, response_CN, axes=1)[:, : wave_CN.shape[1]]
    return np.asarray(wave_CN + wet * tail, dtype=np.float32)


def _shelf(wave_CN: np.ndarray, corner_hz: float, gain_db: float) -> np.ndarray:
    """Raise what lies above a corner, gently."""
    top = butter(1, corner_hz, "highpass", fs=RATE_HZ, output="sos")
    more = 10.0 ** (gain_db / 20.0) - 1.0
    return np.asarray(wave_CN + more * sosfilt(top, wave_CN, axis=1), dtype=np.float32)


def _energy(wave_CN: np.ndarray) -> float:
    return float(np.mean(wave_CN.astype(np.float64) ** 2)) + 1e-12


def _k_weighted(wave_CN: np.ndarray) -> np.ndarray:
    """Roughly what loudness hears: no rumble, some presence."""
    rumble = butter(2, 100.0, "highpass", fs=RATE_HZ, output="sos")
    return np.asarray(sosfilt(rumble, wave_CN, axis=1))


def mix_song(
    vocals_N: np.ndarray, band_CN: np.ndarray, *, vocal_over_band_db: float, seed: int
) -> Mix:
    """Place the voice over the band, give both a room, bring the sum to the target loudness."""
    num = band_CN.shape[1]
    band_CN = reverberate(band_CN, room(num, 0.9, seed, 2), 0.18)
    rumble = butter(2, 38.0, "highpass", fs=RATE_HZ, output="sos")
    band_CN = _shelf(sosfilt(rumble, band_CN, axis=1), 2500.0, 2.5)
    if np.any(vocals_N):
        low = butter(2, 90.0, "highpass", fs=RATE_HZ, output="sos")
        dry = _shelf(sosfilt(low, vocals_N)[None], 1800.0, 4.0)
        sung = np.abs(dry[0]) > 1e-3 * float(np.abs(dry).max())
        sung = uniform_filter1d(sung.astype(np.float32), RATE_HZ // 5) > 0.05
        voice_energy = _energy(_k_weighted(dry)[:, sung])
        band_energy = 2.0 * _energy(_k_weighted(band_CN)[:, sung])
        # The voice is heard from both channels, so its energy counts twice as well.
        gain = math.sqrt(band_energy / (2.0 * voice_energy)) * 10 ** (vocal_over_band_db / 20)
        vocals_N = reverberate(dry * gain, room(num, 0.7, seed + 1, 1), 0.1)[0]
    return _master(vocals_N, band_CN)


def _master(vocals_N: np.ndarray, band_CN: np.ndarray) -> Mix:
    mix_CN = band_CN + vocals_N
    ceiling = 10.0 ** (CEILING_DBTP / 20.0)
    # Voice and band can cancel in the mix: alone they must still fit a file.
    alone_N = np.maximum(np.abs(band_CN).max(axis=0), np.abs(vocals_N))
    peaks = np.maximum(oversampled_peaks(mix_CN), alone_N * np.float32(ceiling / STEM_CEILING))
    gain = 10.0 ** ((TARGET_LUFS - loudness_lufs(mix_CN)) / 20.0)
    for _ in range(5):
        curve = limiter_gain(peaks, gain, ceiling) * np.float32(gain)
        lufs = loudness_lufs(mix_CN * curve)
        if abs(lufs - TARGET_LUFS) < 0.1:
            break
        gain *= 10.0 ** ((TARGET_LUFS - lufs) / 20.0)
    out_CN = mix_CN * curve
    return Mix(
        mix_CN=out_CN, vocals_N=vocals_N * curve, band_CN=band_CN * curve,
        lufs=lufs, true_peak_dbtp=true_peak_dbtp(out_CN),
    )  # fmt: skip
