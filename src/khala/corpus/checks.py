"""What a sound must be to be learned from.

Shape letters: C channels, N samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from khala.audio import loudness_lufs
from khala.errors import ConfigError, CorpusError

__all__ = ["Refusal", "SongLimits", "check_sound"]

RATE_HZ = 44_100
WINDOW_S = 0.05
SILENT_DBFS = -60.0


class Refusal(CorpusError):
    """A song that is not taken; ``why`` is one word for the report."""

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message, why)
        self.why = why

    def __str__(self) -> str:
        """Return the message alone."""
        return str(self.args[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class SongLimits:
    """Which songs are taken."""

    min_s: float = 1.0
    """Shortest song."""

    max_s: float = 1200.0
    """Longest song; a song is decoded whole, 0.35 MB a second."""

    max_silence: float = 0.5
    """Largest share of a song below -60 dBFS."""

    min_lufs: float = -45.0
    """Quietest song, integrated loudness."""

    max_lufs: float = -2.0
    """Loudest song: above it is noise, or a file with a wrong scale."""

    def __post_init__(self) -> None:
        if not 0.0 < self.min_s < self.max_s <= 3600.0:
            raise ConfigError(
                f"songs of {self.min_s:g} to {self.max_s:g} s: 0 < shortest < longest <= 3600"
            )
        if not 0.0 <= self.max_silence <= 1.0:
            raise ConfigError(f"max_silence must lie in 0..1, not {self.max_silence}")
        if not self.min_lufs < self.max_lufs:
            raise ConfigError("min_lufs must be below max_lufs")


def check_sound(wave_CN: NDArray[np.float32], limits: SongLimits) -> float:
    """Return a song's loudness in LUFS.

    Raises:
        Refusal: it is too short, too long, mostly silent, or outside the loudness limits.
    """
    duration_s = wave_CN.shape[1] / RATE_HZ
    if not limits.min_s <= duration_s <= limits.max_s:
        raise Refusal(
            f"{duration_s:.1f} s long; allowed: {limits.min_s:g} to {limits.max_s:g}", "length"
        )
    silence = _silence(wave_CN)
    if silence > limits.max_silence:
        raise Refusal(f"{silence:.0%} silent; allowed: {limits.max_silence:.0%}", "silence")
    loudness = loudness_lufs(wave_CN)
    if not limits.min_lufs <= loudness <= limits.max_lufs:
        shown = f"{loudness:.1f} LUFS" if math.isfinite(loudness) else "no loudness at all"
        raise Refusal(
            f"{shown}; allowed: {limits.min_lufs:g} to {limits.max_lufs:g} LUFS", "loudness"
        )
    return loudness


def _silence(wave_CN: NDArray[np.float32]) -> float:
    """Return the share of windows in which hardly anything sounds."""
    length = round(WINDOW_S * RATE_HZ)
    num_windows = max(1, wave_CN.shape[1] // length)
    power_N = np.square(wave_CN[:, : num_windows * length]).mean(axis=0)
    power_W = power_N.reshape(num_windows, -1).mean(axis=1)
    return float((power_W < 10 ** (SILENT_DBFS / 10)).mean())
