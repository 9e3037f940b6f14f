"""Each defect of the samples must move its own figure, and no other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from khala.evals import signal
from khala.evals.distances import SAMPLE_RATE_HZ, Wave

FIGURES: dict[str, Callable[[Wave], float]] = {
    "dc_offset": signal.dc_offset,
    "stereo_width": signal.stereo_width,
    "bandwidth_hz": signal.bandwidth_hz,
    "flat_tops": signal.flat_top_share,
    "silence": lambda wave_CN: signal.silent_share(wave_CN)[0],
}


def noise(seed: int = 0) -> Wave:
    """Four seconds of half-correlated stereo noise over the whole band."""
    generator = np.random.default_rng(seed)
    both, left, right = generator.normal(0, 0.05, (3, 4 * SAMPLE_RATE_HZ))
    return np.stack([both + left, both + right]).astype(np.float32)


def low_passed(wave_CN: Wave, hz: float) -> Wave:
    spectrum = np.fft.rfft(wave_CN)
    spectrum[:, int(hz * wave_CN.shape[1] / SAMPLE_RATE_HZ) :] = 0
    return np.fft.irfft(spectrum, n=wave_CN.shape[1]).astype(np.float32)


DEFECTS: dict[str, tuple[Callable[[Wave], Wave], dict[str, float]]] = {
    "offset": (lambda w: w + np.float32(0.02), {"dc_offset": 0.02}),
    "mono": (lambda w: w.mean(0, keepdims=True).repeat(2, 0), {"stereo_width": 0.0}),
    "telephone": (lambda w: low_passed(w, 4000.0), {"bandwidth_hz": 4000.0}),
    "clipped": (lambda w: np.clip(w, -0.04, 0.04), {"flat_tops": 0.043}),
    "hole": (
        lambda w: np.concatenate([w[:, :SAMPLE_RATE_HZ], 0 * w[:, : 3 * SAMPLE_RATE_HZ]], axis=1),
        {"silence": 0.75},
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_moves_its_own_figure(name: str) -> None:
    """A figure that moves with everything says nothing; one that does not move is no figure."""
    spoil, moved = DEFECTS[name]
    before, after = noise(), spoil(noise()).astype(np.float32)
    for figure, measure in FIGURES.items():
        was, now = measure(before), measure(after)
        if figure in moved:
            assert now == pytest.approx(moved[figure], rel=0.3, abs=0.001), figure
            assert abs(now - was) > 0.01, figure
        elif figure == "bandwidth_hz":
            assert now == pytest.approx(was), figure
        else:
            assert abs(now - was) < 0.05, figure


def test_width_knows_opposite_phases() -> None:
    """Sounds wide on headphones and is silent on a telephone."""
    left = noise()[:1]
    assert signal.stereo_width(np.concatenate([left, -left])) == pytest.approx(1.0)
    assert signal.stereo_width(np.zeros((2, 100), dtype=np.float32)) == 0.0


def test_a_full_band_is_full_and_silence_has_none() -> None:
    assert signal.bandwidth_hz(noise()) > 19_000
    assert signal.bandwidth_hz(np.zeros((2, SAMPLE_RATE_HZ), dtype=np.float32)) == 0.0
