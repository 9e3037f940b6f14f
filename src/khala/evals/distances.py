"""How far a waveform is from the one it should be: pure functions of two waves.

Shape letters, this file only: C channels (2), N samples, F frequency bins, T frames.

No single number says whether a codec is good. Log-magnitude distances reward a voice whose
harmonics are smeared into the right average, waveform distances reward silence where a phase is
unknown; so both kinds are always reported side by side, the second one also by band.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from khala.audio import log_mel, loudness_lufs

Wave = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 44_100

BANDS_HZ = (
    ("0-250", 0.0, 250.0),
    ("250-1k", 250.0, 1000.0),
    ("1-4k", 1000.0, 4000.0),
    ("4-12k", 4000.0, 12_000.0),
)
"""Bands of `sdr_by_band_db`; 1-4 kHz is where consonants and the voice's timbre live."""

LOWEST_DB = -60.0
"""No signal-to-distortion ratio is reported below this: silence would give minus infinity."""

HIGHEST_DB = 100.0
"""Nor above this: identical waves would give plus infinity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distances:
    """Every distance between one original and one reconstruction."""

    mel80: float
    """Mean absolute difference of log10 mel magnitudes; lower is better."""

    multi_stft: float
    """Spectral convergence plus log-magnitude difference, mean of three resolutions."""

    lsd_db: float
    """Log-spectral distance, full band; lower is better."""

    si_sdr_db: float
    """Scale-invariant signal-to-distortion ratio, both channels as one signal; higher is better."""

    sdr_0_250_db: float
    """Signal-to-distortion ratio of the bass band."""

    sdr_250_1k_db: float
    """Signal-to-distortion ratio where the sung fundamentals are."""

    sdr_1_4k_db: float
    """Signal-to-distortion ratio where words are understood."""

    sdr_4_12k_db: float
    """Signal-to-distortion ratio of the upper band."""

    stereo_db: float
    """Mean absolute error of the side-to-mid level ratio; lower is better."""

    loudness_db: float
    """Absolute loudness error; lower is better."""


def measure(original_CN: Wave, other_CN: Wave) -> Distances:
    """Return every distance of ``other_CN`` from ``original_CN`` (44.1 kHz, [2, N], aligned).

    Raises:
        ValueError: the two waves differ in shape, or are not stereo.
    """
    bands = sdr_by_band_db(original_CN, other_CN)
    return Distances(
        mel80=mel_distance(original_CN, other_CN),
        multi_stft=multi_stft_distance(original_CN, other_CN),
        lsd_db=log_spectral_distance_db(original_CN, other_CN),
        si_sdr_db=si_sdr_db(original_CN, other_CN),
        sdr_0_250_db=bands["0-250"],
        sdr_250_1k_db=bands["250-1k"],
        sdr_1_4k_db=bands["1-4k"],
        sdr_4_12k_db=bands["4-12k"],
        stereo_db=stereo_error_db(original_CN, other_CN),
        loudness_db=loudness_error_db(original_CN, other_CN),
    )


def mean_distances(distances: list[Distances]) -> dict[str, float]:
    """Average each distance over clips, every clip counting the same."""
    if not distances:
        raise ValueError("no distances to average")
    return {
        field.name: float(np.mean([getattr(one, field.name) for one in distances]))
        for field in fields(Distances)
    }


def mel_distance(original_CN: Wave, other_CN: Wave) -> float:
    """Mean |log10| difference of 80 mel magnitudes, FFT 2048, hop 512, floor 1e-5."""
    original, other = _pair(original_CN, other_CN)
    return float((log_mel(original) - log_mel(other)).abs().mean()) / math.log(10)


def multi_stft_distance(original_CN: Wave, other_CN: Wave) -> float:
    """Spectral convergence + mean |ln| magnitude difference, mean of FFT 2048, 1024 and 512.

    The sum of https://arxiv.org/abs/1910.11480, each at a hop of a quarter window.
    """
    original, other = _pair(original_CN, other_CN)
    total = 0.0
    for num_fft in (2048, 1024, 512):
        wanted = stft(original, num_fft, num_fft // 4).abs()
        got = stft(other, num_fft, num_fft // 4).abs()
        convergence = torch.linalg.vector_norm(wanted - got) / (
            torch.linalg.vector_norm(wanted).clamp_min(1e-8)
        )
        log_error = (wanted.clamp_min(1e-5).log() - got.clamp_min(1e-5).log()).abs().mean()
        total += float(convergence + log_error)
    return total / 3


def log_spectral_distance_db(original_CN: Wave, other_CN: Wave) -> float:
    """Root mean square over bins of the dB difference, mean over frames; FFT 2048, hop 512.

    Magnitudes are floored 114 dB below full scale, under the noise of 16 bits.
    """
    original, other = _pair(original_CN, other_CN)
    logs = [
        20 * torch.log10(stft(wave, 2048, 512).abs().clamp_min(1e-3)) for wave in (original, other)
    ]
    return float((logs[0] - logs[1]).square().mean(dim=1).sqrt().mean())


def si_sdr_db(original_CN: Wave, other_CN: Wave) -> float:
    """Scale-invariant SDR of both channels taken as one signal (https://arxiv.org/abs/1811.02508).

    A polarity flip counts as full distortion: the best scale is kept non-negative.
    """
    original, other = _pair(original_CN, other_CN)
    wanted = (original - original.mean(dim=1, keepdim=True)).flatten().double()
    got = (other - other.mean(dim=1, keepdim=True)).flatten().double()
    scale = ((wanted @ got) / (wanted @ wanted).clamp_min(1e-12)).clamp_min(0.0)
    target = scale * wanted
    return _ratio_db(target.square().sum(), (got - target).square().sum())


def sdr_by_band_db(original_CN: Wave, other_CN: Wave) -> dict[str, float]:
    """SDR within each of `BANDS_HZ`, by summing the complex STFT error over the band's bins."""
    original, other = _pair(original_CN, other_CN)
    wanted = stft(original, 2048, 512)
    error = (wanted - stft(other, 2048, 512)).abs().square().sum(dim=(0, 2)).double()
    power = wanted.abs().square().sum(dim=(0, 2)).double()
    hz_F = torch.linspace(0, SAMPLE_RATE_HZ / 2, power.numel())
    ratios = {}
    for name, low_hz, high_hz in BANDS_HZ:
        inside_F = (hz_F >= low_hz) & (hz_F < high_hz)
        ratios[name] = _ratio_db(power[inside_F].sum(), error[inside_F].sum())
    return ratios


def stereo_error_db(original_CN: Wave, other_CN: Wave) -> float:
    """Mean |difference| of the side-to-mid level in half-second blocks, floor -40 dB.

    Blocks in which the original is silent do not count.
    """
    original, other = _pair(original_CN, other_CN)
    size = min(SAMPLE_RATE_HZ // 2, original.shape[1])
    num_blocks = original.shape[1] // size

    def side_to_mid_db(wave: Tensor) -> Tensor:
        blocks = wave[:, : num_blocks * size].reshape(2, num_blocks, size)
        mid = (blocks[0] + blocks[1]).square().mean(dim=1)
        side = (blocks[0] - blocks[1]).square().mean(dim=1)
        return (10 * torch.log10((side + 1e-10) / (mid + 1e-10))).clamp(-40.0, 40.0)

    loud = original[:, : num_blocks * size].reshape(2, num_blocks, size).square().mean(dim=(0, 2))
    heard = loud > 1e-6
    if not bool(heard.any()):
        return 0.0
    return float((side_to_mid_db(original) - side_to_mid_db(other)).abs()[heard].mean())


def loudness_error_db(original_CN: Wave, other_CN: Wave) -> float:
    """Absolute difference of integrated loudness; both clamped to -70 LUFS, the gate's floor."""
    levels = [max(loudness_lufs(wave_CN), -70.0) for wave_CN in (original_CN, other_CN)]
    return abs(levels[0] - levels[1])


def stft(wave_CN: Tensor, num_fft: int, hop: int) -> Tensor:
    """Complex STFT [C, F, T], periodic Hann window, unscaled (full scale is F / 2)."""
    return torch.stft(
        wave_CN,
        num_fft,
        hop,
        window=torch.hann_window(num_fft),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )


def _pair(original_CN: Wave, other_CN: Wave) -> tuple[Tensor, Tensor]:
    if original_CN.shape != other_CN.shape or original_CN.ndim != 2 or original_CN.shape[0] != 2:
        raise ValueError(
            f"two stereo waves of one length are needed, got {original_CN.shape} "
            f"and {other_CN.shape}"
        )
    return torch.from_numpy(np.ascontiguousarray(original_CN, dtype=np.float32)), torch.from_numpy(
        np.ascontiguousarray(other_CN, dtype=np.float32)
    )


def _ratio_db(signal: Tensor, error: Tensor) -> float:
    if float(signal) <= 1e-12:
        return LOWEST_DB if float(error) > 1e-12 else HIGHEST_DB
    ratio_db = 10 * float(torch.log10(signal / error.clamp_min(1e-12)))
    return min(max(ratio_db, LOWEST_DB), HIGHEST_DB)
