"""What can be heard to be wrong with a song without knowing what it should have been.

Shape letters, this file only: C channels, N samples, M mel bands, T frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from khala.audio import log_mel, loudness_lufs, true_peak_dbtp
from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.signal import (
    bandwidth_hz,
    dc_offset,
    flat_top_share,
    longest_run,
    silent_share,
    stereo_width,
)
from khala.evals.structure import find_structure
from khala.evals.tonality import find_key

Floats = npt.NDArray[np.float64]

HOP = 512
FRAME_RATE_HZ = SAMPLE_RATE_HZ / HOP
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

    beat: float
    """How strong that pulse is: the correlation of the onsets with themselves a beat later, 0 to
    1; songs with drums have .3 and more."""

    true_peak_dbtp: float
    """Highest point of the curve, between the samples too; minus infinity for silence."""

    dc_offset: float
    """Largest mean of a channel, as a part of full scale."""

    stereo_width: float
    """The side's share of the power: 0 mono, 1 opposite phases."""

    bandwidth_hz: float
    """Upper end of what sounds."""

    key: str
    """Likeliest key; empty where nothing has a pitch."""

    key_clarity: float
    """How much better it fits than keys with other notes."""

    boundaries_s: tuple[float, ...]
    """Where sections seem to change."""

    recurrence: float
    """Share of the song that comes back later or was there before."""

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
    bpm, beat = tempo(mel_MT)
    key = find_key(wave_CN)
    structure = find_structure(wave_CN, mel_MT, FRAME_RATE_HZ)
    return Heard(
        duration_s=wave_CN.shape[1] / SAMPLE_RATE_HZ,
        loudness_lufs=loudness_lufs(wave_CN),
        silence=silence,
        longest_silence_s=longest_silence_s,
        flat_tops=flat_top_share(wave_CN),
        flux=spectral_flux(mel_MT),
        longest_still_s=longest_still_s(mel_MT),
        loop=loop_strength(mel_MT),
        bpm=bpm,
        beat=beat,
        true_peak_dbtp=true_peak_dbtp(wave_CN),
        dc_offset=dc_offset(wave_CN),
        stereo_width=stereo_width(wave_CN),
        bandwidth_hz=bandwidth_hz(wave_CN),
        key=key.name,
        key_clarity=key.clarity,
        boundaries_s=structure.boundaries_s,
        recurrence=structure.recurrence,
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


def tempo(mel_MT: Floats) -> tuple[float, float]:
    """Estimate tempo and strength of the pulse from the autocorrelation of spectral rises.

    NaN and 0 if nothing pulses.

    A candidate's score is the autocorrelation at one, two and four of its beats, weighted by how
    common the tempo is (log-normal around 115 bpm, https://doi.org/10.1080/09298210701653344).
    """
    rises_T = np.maximum(np.diff(mel_MT, axis=1), 0).mean(axis=0)
    if rises_T.size < 4 * FRAME_RATE_HZ:
        return math.nan, 0.0
    width = round(FRAME_RATE_HZ)
    local = np.convolve(rises_T, np.ones(width) / width, mode="same")
    onsets_T = rises_T - local
    size = 1 << int(np.ceil(np.log2(2 * onsets_T.size)))
    spectrum = np.abs(np.fft.rfft(onsets_T, size)) ** 2
    correlation = np.fft.irfft(spectrum)[: onsets_T.size // 2]
    if correlation[0] < 1e-9:
        return math.nan, 0.0
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
        return math.nan, 0.0
    strength = float(np.interp(lags[best], places, correlation))
    return float(tempi[best]), max(0.0, strength)


def tempo_agrees(bpm: float, wanted_bpm: float, *, octaves: bool, tolerance: float = 0.05) -> bool:
    """Say whether a tempo is the wanted one, or with ``octaves`` a simple multiple of it."""
    if not math.isfinite(bpm):
        return False
    ratios = OCTAVES if octaves else (1.0,)
    return any(abs(bpm / (wanted_bpm * ratio) - 1) <= tolerance for ratio in ratios)
