"""The model in the box: what every first command of a user runs on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from khala import Khala, SongRequest
from khala.checkpoint import digest, resolve_model

MOST_BYTES = 40_000_000
REQUEST = SongRequest(
    prompt="female vocal, pop, piano, 100 bpm", lyrics="[Verse 1]\nI see the light", duration_s=3.0
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve_model("nano")


def test_it_is_small_and_has_a_card(folder: Path) -> None:
    """A clone that takes minutes, or weights nobody accounts for, are no first impression."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    for heading in ("## Data", "## Training", "## Scores", "## What sounds wrong"):
        assert heading in card
    for part in ("codec", "backbone", "superres"):
        assert digest(folder / part)


def test_it_sings_the_same_song_twice(folder: Path) -> None:
    """The first song must be sound, not silence, and its seed must mean something."""
    model = Khala.from_pretrained(folder)
    song = model.generate(REQUEST)
    assert song.num_levels == 64
    assert 0.9 * 3.0 <= song.duration_s <= 1.1 * 3.0
    wave_CN = song.waveform()
    assert np.isfinite(wave_CN).all()
    assert 0.01 < float(np.abs(wave_CN).mean()) < 0.5
    again = model.generate(REQUEST)
    assert hashlib.sha256(again.codes_QT.tobytes()).digest() == (
        hashlib.sha256(song.codes_QT.tobytes()).digest()
    )
