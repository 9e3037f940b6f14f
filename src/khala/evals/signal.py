"""What a file's samples say by themselves: silence, clipping, offset, width, bandwidth.

Shape letters, this file only: C channels, N samples.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from khala.evals.distances import SAMPLE_RATE_HZ, Wave

SILENT_DBFS = -50.0
BLOCK_S = 0.1
BANDWIDTH_DB = -60.0
"""A frequency counts as present within this of the song's loudest third of an octave."""


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


def dc_offset(wave_CN: Wave) -> float:
    """Return the largest mean of a channel, as a part of full scale: 0 in a sound file."""
    return float(np.abs(wave_CN.mean(axis=1, dtype=np.float64)).max()) if wave_CN.size else 0.0


def stereo_width(wave_CN: Wave) -> float:
    """Return the side's share of the power: 0 mono, 0.5 unrelated channels, 1 opposite phases."""
    left, right = wave_CN.astype(np.float64)
    mid, side = float(((left + right) ** 2).sum()), float(((left - right) ** 2).sum())
    return side / max(mid + side, 1e-20)


def bandwidth_hz(wave_CN: Wave, *, n_fft: int = 4096) -> float:
    """Return the upper end of what sounds: the highest third of an octave that is not empty.

    Empty is 60 dB or more below the loudest third, on the mean power of the whole song. A song
    decoded from a 16 kHz file ends at 8 kHz by this, whatever its sample rate says.
    """
    power_F = np.zeros(n_fft // 2 + 1)
    window = np.hanning(n_fft).astype(np.float32)
    for wave_N in wave_CN:
        num_blocks = wave_N.size // n_fft
        for start in range(0, num_blocks, 1024):
            blocks = wave_N[start * n_fft : min(start + 1024, num_blocks) * n_fft]
            spectrum = np.fft.rfft(blocks.reshape(-1, n_fft) * window, axis=1)
            power_F += (np.abs(spectrum) ** 2).sum(axis=0)
    edges_hz = 50.0 * 2 ** (np.arange(27) / 3)
    places = np.minimum((edges_hz * n_fft / SAMPLE_RATE_HZ).astype(int), n_fft // 2)
    thirds = np.array(
        [power_F[low : max(low + 1, high)].mean() for low, high in itertools.pairwise(places)]
    )
    if thirds.max() < 1e-12:
        return 0.0
    present = np.flatnonzero(thirds > thirds.max() * 10 ** (BANDWIDTH_DB / 10))
    return float(min(edges_hz[present[-1] + 1], SAMPLE_RATE_HZ / 2))


def longest_run(flags: npt.NDArray[np.bool_]) -> int:
    """Return the length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max()) if edges.size else 0
