"""The peers must be run fairly, or being better than they are means nothing."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from khala.errors import ConfigError
from khala.evals import peers
from khala.evals.distances import SAMPLE_RATE_HZ, Wave, si_sdr_db

HAS_PYAV = importlib.util.find_spec("av")


def chord(duration_s: float) -> Wave:
    seconds = np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tone = sum(0.2 * np.sin(2 * np.pi * hz * seconds) for hz in (220.0, 331.0, 497.0, 1203.0))
    fade = np.minimum(1.0, 10 * seconds)
    return np.asarray(np.stack([tone * fade, 0.7 * tone * fade]), dtype=np.float32)


def test_opus_spends_exactly_the_bits_it_was_given() -> None:
    """VBR Opus at "16" spends 22 kbit/s: beating that, or losing to it, says nothing."""
    if HAS_PYAV is None:
        with pytest.raises(ConfigError, match="khala\\[eval\\]"):
            peers.run_peer("opus-16", chord(0.1))
        return
    wave_CN = chord(1.0)
    low, high = (peers.run_peer(name, wave_CN) for name in ("opus-16", "opus-96"))
    assert low.kbit_s == pytest.approx(16.0, abs=0.1)
    assert high.kbit_s == pytest.approx(96.0, abs=0.1)
    assert low.wave_CN.shape == high.wave_CN.shape == wave_CN.shape
    assert si_sdr_db(wave_CN, high.wave_CN) > si_sdr_db(wave_CN, low.wave_CN)


def test_opus_is_aligned_to_a_fraction_of_a_sample() -> None:
    """A third of a sample of delay alone costs the peer most of its SDR in the treble."""
    if HAS_PYAV is None:
        with pytest.raises(ConfigError, match="khala\\[eval\\]"):
            peers.run_peer("opus-16", chord(0.1))
        return
    wave_CN = chord(1.0)
    assert si_sdr_db(wave_CN, peers.run_peer("opus-256", wave_CN).wave_CN) > 25.0


@pytest.mark.parametrize("delay", [-7, 0, 313])
def test_a_delay_is_found_and_taken_out(delay: int) -> None:
    """A peer heard too late would be measured against the wrong moment."""
    wave_CN = np.random.default_rng(0).normal(0, 0.1, (2, 9000)).astype(np.float32)
    late_CN = np.roll(wave_CN, delay, axis=1)
    assert peers.find_delay(wave_CN, late_CN) == delay
    back_CN = peers.shift(late_CN, delay, num_samples=9000)
    assert back_CN.shape == wave_CN.shape
    np.testing.assert_array_equal(back_CN[:, 400:-400], wave_CN[:, 400:-400])


@pytest.mark.parametrize("name", ["mp3-64", "opus", "opus-2", "opus-x"])
def test_an_unknown_peer_is_named(name: str) -> None:
    """A typing error must not quietly leave a peer out of the table."""
    with pytest.raises(ConfigError, match="opus-N"):
        peers.run_peer(name, chord(0.1))
