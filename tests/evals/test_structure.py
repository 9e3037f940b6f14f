"""Sections: found where the sound changes, and recognised when they come back."""

from __future__ import annotations

import numpy as np

from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.listening import FRAME_RATE_HZ, mel_frames
from khala.evals.structure import Structure, find_structure

SECTION_S, LOOP_S = 12.0, 3.0


def section(kind: int) -> Wave:
    """Twelve seconds: a loop of four chords of its own, in a timbre of its own."""
    generator = np.random.default_rng(kind)
    seconds = np.arange(int(LOOP_S / 4 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    chords = []
    for _ in range(4):
        notes = 45 + generator.choice(24, 3, replace=False)
        partials = 1 + kind % 3
        chords.append(
            sum(
                0.05 * np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * (1 + p * kind) * seconds)
                for note in notes
                for p in range(partials)
            )
        )
    wave_N = np.tile(np.concatenate(chords), int(SECTION_S / LOOP_S))
    return np.stack([wave_N, wave_N]).astype(np.float32)


def song(form: str) -> Structure:
    wave_CN = np.concatenate([section(ord(kind) - ord("A") + 1) for kind in form], axis=1)
    noise_CN = np.random.default_rng(9).normal(0, 1e-3, wave_CN.shape).astype(np.float32)
    return find_structure(wave_CN + noise_CN, mel_frames(wave_CN + noise_CN), FRAME_RATE_HZ)


def test_boundaries_lie_where_sections_change() -> None:
    """A section found anywhere is a section found nowhere."""
    found = song("ABAC").boundaries_s
    assert len(found) == 3
    np.testing.assert_allclose(found, [12, 24, 36], atol=1.0)


def test_what_comes_back_is_recognised() -> None:
    """A chorus that never returns, and a song of one loop, are both worth knowing."""
    assert song("ABCD").recurrence < 0.1
    assert 0.4 < song("ABAC").recurrence < 0.65
    assert song("ABAB").recurrence > 0.9


def test_nothing_is_found_in_noise_or_in_a_moment() -> None:
    """Noise has no form."""
    noise_CN = np.random.default_rng(0).normal(0, 0.1, (2, 30 * SAMPLE_RATE_HZ)).astype(np.float32)
    found = find_structure(noise_CN, mel_frames(noise_CN), FRAME_RATE_HZ)
    assert found == Structure(boundaries_s=(), recurrence=0.0)
    short_CN = noise_CN[:, :SAMPLE_RATE_HZ]
    assert find_structure(short_CN, mel_frames(short_CN), FRAME_RATE_HZ).boundaries_s == ()
