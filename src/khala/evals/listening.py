"""What can be heard to be wrong with a song without knowing what it should have been.

Shape letters, this file only: C channels, N samples, M mel bands, T frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from khala.audio import log_mel, loudness_lufs
from khala.evals.distances import SAMPLE_RATE_HZ, Wave

Floats = npt.NDArray[np.float64]

HOP = 512
FRAME_RATE_HZ = SAMPLE_RATE_HZ / HOP
SILENT_DBFS = -50.0
BLOCK_S = 0.1
LONGEST_SILENCE_S = 2.0
MOST_SILENCE = 0.25
MOST_FLAT_TOPS = 1e-4
LONGEST_STILL_S = 3.0
STILL = 0.03
"""Spectra a quarter of a second apart that differ by less than this (mean |ln|) stand still."""

MOST_LOOPED = 0.98
SLOWEST_BPM, FASTEST_BPM = 50.0, 220.0
OCTAVES = (1 / 3, 1 / 2, 1.0, 2.0, 3.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """One song, listened to."""

    duration_s: float
    """Length of the file."""

    loudness_lufs: float
    """Integrated loudness; minus infinity for silence."""

    silence: float
    """Share of tenths of a second below -50 dBFS."""

    longest_silence_s: float
    """Longest silent stretch inside the song, its beginning and end not counted."""

    flat_tops: float
    """Share of samples in runs of four or more equal ones near the peak: clipping at any level."""

    flux: float
    """Mean rise of the log-mel spectrum per frame: 0 for a held tone."""

    longest_still_s: float
    """Longest loud stretch in which the spectrum hardly changes."""

    loop: float
    """Highest correlation of the song's spectrum with itself a quarter to four seconds later."""

    bpm: float
    """Estimated tempo; NaN where nothing pulses."""

    def faults(self) -> list[str]:
        """Name what no listener would accept."""
        found = {
            "silent": self.silence > MOST_SILENCE or self.longest_silence_s > LONGEST_SILENCE_S,
            "clipped": self.flat_tops > MOST_FLAT_TOPS,
            "stuck": self.longest_still_s > LONGEST_STILL_S,
            "looped": self.loop > MOST_LOOPED,
        }
        return [name for name, is_found in found.items() if is_found]


def listen(wave_CN: Wave) -> Heard:
    """Measure one 44.1 kHz stereo song."""
    mel_MT = mel_frames(wave_CN)
    silence, longest_silence_s = silent_share(wave_CN)
    return Heard(
        duration_s=wave_CN.shape[1] / SAMPLE_RATE_HZ,
        loudness_lufs=loudness_lufs(wave_CN),
        silence=silence,
        longest_silence_s=longest_silence_s,
        flat_tops=flat_top_share(wave_CN),
        flux=spectral_flux(mel_MT),
        longest_still_s=longest_still_s(mel_MT),
        loop=loop_strength(mel_MT),
        bpm=tempo_bpm(mel_MT),
    )


def mel_frames(wave_CN: Wave) -> Floats:
    """Natural-log mel magnitudes [40, T] of the mono mix, every 11.6 ms."""
    mono_N = torch.from_numpy(np.ascontiguousarray(wave_CN.mean(axis=0), dtype=np.float32))
    return (
        log_mel(mono_N, hop=HOP, n_mels=40, f_min=30.0, f_max=16_000.0, floor=1e-2).double().numpy()
    )


def spectral_flux(mel_MT: Floats) -> float:
    """Return the mean rise per band and frame, without the steps at the two ends of the file."""
    rises = np.maximum(np.diff(mel_MT[:, 4:-4], axis=1), 0)
    return float(rises.mean()) if rises.size else 0.0


def silent_share(wave_CN: Wave) -> tuple[float, float]:
    """Return the share of silent blocks, and the longest silence inside the song in seconds."""
    size = int(BLOCK_S * SAMPLE_RATE_HZ)
    num_blocks = max(1, wave_CN.shape[1] // size)
    blocks = wave_CN[:, : num_blocks * size].astype(np.float64).reshape(2, num_blocks, -1)
    level_db = 10 * np.log10(np.mean(blocks**2, axis=(0, 2)) + 1e-20)
    is_silent = level_db < SILENT_DBFS
    loud = np.flatnonzero(~is_silent)
    if loud.size == 0:
        return 1.0, num_blocks * BLOCK_S
    inside = is_silent[loud[0] : loud[-1] + 1]
    return float(is_silent.mean()), longest_run(inside) * BLOCK_S


def flat_top_share(wave_CN: Wave, *, run: int = 4) -> float:
    """Return the share of samples inside runs of equal ones within 1 % of the channel's peak."""
    flat = 0
    for wave_N in wave_CN:
        peak = float(np.abs(wave_N).max())
        if peak < 1e-3:
            continue
        high = np.abs(wave_N) > 0.99 * peak
        same = np.concatenate([[False], (np.abs(np.diff(wave_N)) < 1e-6) & high[1:] & high[:-1]])
        edges = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(np.int8), [0]])))
        lengths = edges[1::2] - edges[::2] + 1
        flat += int(lengths[lengths >= run].sum())
    return flat / max(1, wave_CN.size)


def longest_still_s(mel_MT: Floats) -> float:
    """Return the longest loud stretch in which quarter-second spectra hardly move, in seconds."""
    step = round(0.25 * FRAME_RATE_HZ)
    num_steps = mel_MT.shape[1] // step
    if num_steps < 2:
        return 0.0
    spectra_MS = mel_MT[:, : num_steps * step].reshape(len(mel_MT), num_steps, step).mean(axis=2)
    moved = np.abs(np.diff(spectra_MS, axis=1)).mean(axis=0)
    within = mel_MT[:, : num_steps * step].reshape(len(mel_MT), num_steps, step).std(axis=2)
    is_loud = spectra_MS.max(axis=0) > math.log(1.0)
    still = (moved < STILL) & is_loud[1:] & (within.mean(axis=0)[1:] < 2 * STILL)
    run = longest_run(still)
    return (run + 1) * step / FRAME_RATE_HZ if run else 0.0


def loop_strength(mel_MT: Floats) -> float:
    """Return the best correlation of the moving spectrum with itself 0.25 to 4 s later."""
    moving_MT = mel_MT - mel_MT.mean(axis=1, keepdims=True)
    power = float((moving_MT**2).sum())
    if power < 1e-6:
        return 0.0
    best = 0.0
    num_frames = mel_MT.shape[1]
    for lag in range(round(0.25 * FRAME_RATE_HZ), min(round(4 * FRAME_RATE_HZ), num_frames // 2)):
        early, late = moving_MT[:, :-lag], moving_MT[:, lag:]
        norm = math.sqrt(float((early**2).sum()) * float((late**2).sum()))
        best = max(best, float((early * late).sum()) / max(norm, 1e-9))
    return best


def tempo_bpm(mel_MT: Floats) -> float:
    """Estimate the tempo from the autocorrelation of spectral rises; NaN if nothing pulses.

    A candidate's score is the autocorrelation at one, two and four of its beats, weighted by how
    common the tempo is (log-normal around 115 bpm, https://doi.org/10.1080/09298210701653344).
    """
    rises_T = np.maximum(np.diff(mel_MT, axis=1), 0).mean(axis=0)
    if rises_T.size < 4 * FRAME_RATE_HZ:
        return math.nan
    width = round(FRAME_RATE_HZ)
    local = np.convolve(rises_T, np.ones(width) / width, mode="same")
    onsets_T = rises_T - local
    size = 1 << int(np.ceil(np.log2(2 * onsets_T.size)))
    spectrum = np.abs(np.fft.rfft(onsets_T, size)) ** 2
    correlation = np.fft.irfft(spectrum)[: onsets_T.size // 2]
    if correlation[0] < 1e-9:
        return math.nan
    correlation = correlation / correlation[0]
    tempi = np.exp(np.linspace(math.log(SLOWEST_BPM), math.log(FASTEST_BPM), 600))
    lags = 60 / tempi * FRAME_RATE_HZ
    places = np.arange(correlation.size)
    scores = sum(
        np.where(
            beats * lags < correlation.size - 1, np.interp(beats * lags, places, correlation), 0.0
        )
        for beats in (1, 2, 4)
    )
    weighted = scores * np.exp(-0.5 * (np.log2(tempi / 115.0) / 0.9) ** 2)
    best = int(np.argmax(weighted))
    if weighted[best] <= 0:
        return math.nan
    return float(tempi[best])


def tempo_agrees(bpm: float, wanted_bpm: float, *, octaves: bool, tolerance: float = 0.05) -> bool:
    """Say whether a tempo is the wanted one, or with ``octaves`` a simple multiple of it."""
    if not math.isfinite(bpm):
        return False
    ratios = OCTAVES if octaves else (1.0,)
    return any(abs(bpm / (wanted_bpm * ratio) - 1) <= tolerance for ratio in ratios)


def longest_run(flags: npt.NDArray[np.bool_]) -> int:
    """Return the length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max()) if edges.size else 0
