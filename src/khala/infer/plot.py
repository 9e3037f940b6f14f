"""A picture of a song: its waveform, its mel spectrogram and where its sections probably are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from khala.audio import log_mel, replacing
from khala.errors import ConfigError
from khala.infer.sections import find_stretches
from khala.song import Song
from khala.tokens import sections

__all__ = ["check_plot", "plot_song"]

Wave = npt.NDArray[np.float32]

WIDTH_PX = 1_600
"""Columns of the waveform: more than one extreme per column cannot be seen."""


def check_plot() -> None:
    """Raise ConfigError if pictures cannot be drawn here, before the minutes of generation."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: install it with pip install 'khala[plot]'")


def plot_song(path: Path, song: Song, wave_CN: Wave) -> None:
    """Write a PNG: the waveform above, the mel spectrogram below, sections as names and lines."""
    check_plot()
    from matplotlib.figure import Figure

    mono_N = torch.from_numpy(wave_CN.mean(axis=0))
    mel_MT = log_mel(mono_N, sample_rate_hz=song.sample_rate_hz, n_mels=96).numpy()
    level_db_MT = 20 / np.log(10.0) * (mel_MT - mel_MT.max())
    duration_s = wave_CN.shape[1] / song.sample_rate_hz
    figure = Figure(figsize=(12, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    times_s, low, high = _outline(wave_CN, duration_s)
    upper.fill_between(times_s, low, high, linewidth=0, color="#33658a")
    upper.set(ylim=(-1, 1), ylabel="amplitude", xlim=(0, duration_s))
    extent = (0.0, duration_s, 0.0, float(mel_MT.shape[0]))
    image = lower.imshow(
        level_db_MT, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-80, vmax=0
    )
    lower.set(xlabel="time (s)", ylabel="mel band")
    figure.colorbar(image, ax=lower, label="dB below the loudest", pad=0.01)
    names, shares = _sections(song)
    for stretch in find_stretches(mel_MT, duration_s, names, shares):
        for axes in (upper, lower):
            axes.axvline(stretch.start_s, color="#f26419", linewidth=1)
        upper.text(
            stretch.start_s,
            1.0,
            f" {stretch.name}",
            va="top",
            size=8,
            color="#f26419",
            clip_on=True,
        )
    figure.suptitle(f"{song.model}, seed {song.request.seed}, {song.num_levels} levels", size=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": "khala"})


def _outline(wave_CN: Wave, duration_s: float) -> tuple[Wave, Wave, Wave]:
    """Lowest and highest sample of each column."""
    mono_N = wave_CN.mean(axis=0)
    edges = np.linspace(0, len(mono_N), min(WIDTH_PX, len(mono_N)) + 1).astype(int)[:-1]
    low = np.minimum.reduceat(mono_N, edges)
    high = np.maximum.reduceat(mono_N, edges)
    times_s = np.linspace(0, duration_s, len(edges), dtype=np.float32)
    return times_s, low, high


def _sections(song: Song) -> tuple[list[str], list[float]]:
    """Names of the sections in the lyrics, and the share of the song each should have."""
    found = sections(song.request.lyrics)
    if not found:
        return ["Instrumental"], [1.0]
    # a section without words is played, about as long as a short verse
    weights = [float(len(section.lines)) or 2.0 for section in found]
    return [section.tag for section in found], [weight / sum(weights) for weight in weights]
