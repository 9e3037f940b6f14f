"""Tiny corpora on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE_HZ = 44_100


def write_song(folder: Path, index: int, *, split: str = "train", seconds: float = 0.6) -> Path:
    """A song as khala synth writes it, with noise for sound."""
    place = folder / "songs" / f"{index:06d}"
    place.mkdir(parents=True)
    generator = np.random.default_rng(index)
    wave_NC = generator.uniform(-0.5, 0.5, (round(seconds * RATE_HZ), 2)).astype(np.float32)
    soundfile.write(place / "mix.flac", wave_NC, RATE_HZ, subtype="PCM_16")
    soundfile.write(place / "vocals.flac", wave_NC[:, 0], RATE_HZ, subtype="PCM_16")
    truth = {
        "id": f"song-{index}",
        "split": split,
        "duration_s": seconds,
        "tags": ["pop", "piano"],
        "description": "A song.",
        "lyrics": "" if index % 3 == 0 else f"[Verse 1]\nline {index}",
        "instrumental": index % 3 == 0,
        "notes": [1, 2],
    }
    (place / "song.json").write_text(json.dumps(truth))
    return place


def write_corpus(folder: Path, num_songs: int) -> Path:
    """A corpus of tiny songs, one in five a test."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.json").write_text(json.dumps({"sample_rate_hz": RATE_HZ}))
    for index in range(num_songs):
        write_song(folder, index, split="test" if index % 5 == 4 else "train")
    return folder


@pytest.fixture
def make_corpus() -> Callable[[Path, int], Path]:
    """Give the writer of tiny corpora."""
    return write_corpus
