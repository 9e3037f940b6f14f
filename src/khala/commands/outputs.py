"""The files a song becomes: their names, and whether they can be written at all."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from khala.audio import audio_format, check_output, loudness_lufs, true_peak_dbtp
from khala.song import Song

__all__ = ["SongFiles", "check_files", "describe", "name_files"]

KHALA_BYTES_PER_S = 64 * 21.6 * 10 / 8
PLOT_BYTES = 600_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SongFiles:
    """Where one song goes."""

    audio: Path
    song: Path
    plot: Path | None


def name_files(out: str, *, num_songs: int, plot: bool) -> list[SongFiles]:
    """``song.wav`` for one song; ``song-1.wav``, ``song-2.wav``, ... for several.

    The .khala and .png files have the same names with another ending.
    """
    path = Path(out)
    audio_format(path)
    stems = [path.stem]
    if num_songs > 1:
        stems = [f"{path.stem}-{number}" for number in range(1, num_songs + 1)]
    return [
        SongFiles(
            audio=path.with_name(stem + path.suffix),
            song=path.with_name(stem + ".khala"),
            plot=path.with_name(stem + ".png") if plot else None,
        )
        for stem in stems
    ]


def check_files(files: list[SongFiles], *, duration_s: float) -> None:
    """Raise what writing them would raise, before the minutes of work."""
    per_song = duration_s * (audio_format(files[0].audio).bytes_per_s + KHALA_BYTES_PER_S)
    num_bytes = int(len(files) * (1.1 * per_song + (PLOT_BYTES if files[0].plot else 0)) + 1e5)
    for one in files:
        for path in (one.audio, one.song, one.plot):
            if path is not None:
                check_output(path, num_bytes=num_bytes)


def describe(files: SongFiles, song: Song, wave_CN: npt.NDArray[np.float32]) -> dict[str, Any]:
    """What ``--json`` says about a finished song."""
    rate_hz = song.sample_rate_hz
    loudness = loudness_lufs(wave_CN, sample_rate_hz=rate_hz)
    peak = true_peak_dbtp(wave_CN, sample_rate_hz=rate_hz)
    return {
        "audio": str(files.audio),
        "audio_sha256": hashlib.sha256(files.audio.read_bytes()).hexdigest(),
        "song": str(files.song),
        "plot": None if files.plot is None else str(files.plot),
        "seed": song.request.seed,
        "fine_seed": song.seed,
        "levels": song.num_levels,
        "frames": song.num_frames,
        "duration_s": round(wave_CN.shape[1] / rate_hz, 3),
        "sample_rate_hz": rate_hz,
        "ended": song.ended,
        "loudness_lufs": round(loudness, 2) if np.isfinite(loudness) else None,
        "true_peak_dbtp": round(peak, 2) if np.isfinite(peak) else None,
        "model": song.model,
        "compat": song.compat,
        "digests": song.digests,
    }
