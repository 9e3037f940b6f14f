"""Pictures of results. Matplotlib is an extra: without it a run says so and goes on."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from khala.audio import replacing
from khala.evals.distances import SAMPLE_RATE_HZ, Wave, stft
from khala.evals.report import OnMessage

SHOWN_S = 20.0

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One quantity, a line per series."""

    title: str
    """What is up."""

    x_label: str
    """What is across."""

    series: Mapping[str, Points]
    """(x, y) points by name."""

    is_log: bool = True
    """Whether x is logarithmic."""


def save_curves(path: Path, panels: Sequence[Panel], *, on_message: OnMessage) -> None:
    """Write one PNG with panels side by side."""
    pyplot = _pyplot(on_message)
    if pyplot is None:
        return
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 3.6), squeeze=False, layout="constrained"
    )
    names = None
    for axis, panel in zip(axes[0], panels, strict=True):
        for name, points in panel.series.items():
            xs, ys = zip(*points, strict=True)
            axis.plot(xs, ys, marker="o", markersize=4, label=name)
        if panel.is_log:
            places = sorted({x for points in panel.series.values() for x, _ in points})
            axis.set_xscale("log")
            axis.set_xticks(places, [f"{place:.2g}" for place in places], fontsize=7)
            axis.minorticks_off()
        axis.set_title(panel.title)
        axis.set_xlabel(panel.x_label)
        axis.grid(alpha=0.3)
        if list(panel.series) != names:
            names = list(panel.series)
            axis.legend(fontsize=8)
    _save(pyplot, figure, path, on_message)


def beginning(wave_CN: Wave) -> Wave:
    """Return a copy of what is shown of a song: its first `SHOWN_S` seconds."""
    return wave_CN[:, : int(SHOWN_S * SAMPLE_RATE_HZ)].copy()


def save_spectrograms(path: Path, waves_CN: Mapping[str, Wave], *, on_message: OnMessage) -> None:
    """Write one PNG with the spectrogram of the first `SHOWN_S` seconds of every wave."""
    pyplot = _pyplot(on_message)
    if pyplot is None or not waves_CN:
        return
    num_columns = min(2, len(waves_CN))
    num_rows = -(-len(waves_CN) // num_columns)
    figure, axes = pyplot.subplots(
        num_rows,
        num_columns,
        figsize=(7.5 * num_columns, 2.0 * num_rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(waves_CN) :]:
        axis.axis("off")
    for axis, (title, wave_CN) in zip(axes.flat, waves_CN.items(), strict=False):
        mono_N = np.ascontiguousarray(beginning(wave_CN).mean(axis=0))
        magnitude_FT = stft(torch.from_numpy(mono_N)[None], 2048, 512)[0].abs()
        level_db = (20 * torch.log10(magnitude_FT.clamp_min(1e-3))).numpy()
        axis.imshow(
            level_db,
            origin="lower",
            aspect="auto",
            vmin=-40,
            vmax=50,
            extent=(0, mono_N.size / SAMPLE_RATE_HZ, 0, SAMPLE_RATE_HZ / 2000),
        )
        axis.set_title(title, fontsize=8)
        axis.set_ylabel("kHz", fontsize=7)
        axis.tick_params(labelsize=7)
    _save(pyplot, figure, path, on_message, dpi=75)


def _pyplot(on_message: OnMessage) -> Any:
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError:
        on_message("no picture: matplotlib is not installed (pip install 'khala[eval]')")
        return None


def _save(pyplot: Any, figure: Any, path: Path, on_message: OnMessage, *, dpi: int = 110) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png", metadata={"Software": "khala"})
    pyplot.close(figure)
    on_message(f"wrote {path.name}")
