"""Distances of sets of songs: worse sound is farther, few songs are said to be few."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from khala.evals.distances import Wave
from khala.evals.distributions import FEWEST
from khala.evals.embedding import Embedding
from khala.evals.sets import SetsOfSongs
from khala.evals.tagger import Tagger, TaggerConfig
from khala.evals.tagger.model import features
from khala.synth.tiny import render_tiny_song

NUM_SONGS = 18
RATE_HZ = 44_100


class Projection:
    """A fixed random projection of a song's mean spectrum and of how much it moves."""

    name = "projection"

    def __init__(self) -> None:
        self._map = np.random.default_rng(0).normal(0, 0.1, (8, 64)).astype(np.float32)

    def embed(self, wave_CN: Wave) -> np.ndarray:
        mel_TM = features(wave_CN, num_mels=32)
        mel_TM = mel_TM - mel_TM.mean()
        return self._map @ np.concatenate([mel_TM.mean(axis=0), mel_TM.std(axis=0)])


@cache
def pieces() -> list[Wave]:
    """Return one piece of each of the first songs of the tiny demo corpus, then another of each.

    Beginnings and middles in turn: two sets of one distribution.
    """
    songs = [render_tiny_song(index, seed=1).mix.mix_CN for index in range(NUM_SONGS)]
    places = (RATE_HZ // 2, 2 * RATE_HZ)
    starts = [places[(half + index) % 2] for half in (0, 1) for index in range(NUM_SONGS)]
    twice = [*songs, *songs]
    return [song_CN[:, at : at + RATE_HZ] for song_CN, at in zip(twice, starts, strict=True)]


def with_noise(wave_CN: Wave, over_signal_db: float, *, seed: int) -> Wave:
    noise_CN = np.random.default_rng(seed).normal(0, wave_CN.std(), wave_CN.shape)
    return (wave_CN + 10 ** (over_signal_db / 20) * noise_CN).astype(np.float32)


def degraded() -> dict[str, list[Wave]]:
    """Return the second pieces, from what they are to what they never were."""
    real = pieces()[NUM_SONGS:]
    return {
        "real": real,
        "a little noise": [with_noise(one, -20, seed=at) for at, one in enumerate(real)],
        "much noise": [with_noise(one, 0, seed=at) for at, one in enumerate(real)],
        "only noise": [with_noise(one, 0, seed=at) - one for at, one in enumerate(real)],
    }


def measured(embedding: Embedding, songs: list[Wave]) -> dict[str, dict[str, float]]:
    """Return both distances of songs from the first pieces."""
    sets = SetsOfSongs([embedding])
    for wave_CN in pieces()[:NUM_SONGS]:
        sets.add_reference(wave_CN)
    for wave_CN in songs:
        sets.add_song(wave_CN)
    return {row["distance"]: row for row in sets.distances()["distances"]}


def test_worse_songs_are_farther() -> None:
    """A distance that does not order these cannot choose between two models."""
    found = [measured(Projection(), songs) for songs in degraded().values()]
    for kind in ("Frechet", "kernel (squared MMD)"):
        values = [one[kind]["value"] for one in found]
        assert values == sorted(values), kind
        assert values[1] > 2 * abs(values[0]), kind
    kernel = [one["kernel (squared MMD)"] for one in found]
    assert kernel[2]["low"] > kernel[0]["high"]
    assert kernel[3]["low"] > kernel[2]["high"]


def test_the_bias_of_few_songs_is_taken_off() -> None:
    """Other songs of the same corpus look far away only because they are few."""
    for row in measured(Projection(), degraded()["real"]).values():
        assert abs(row["value"]) < 0.6 * row["biased"]
        assert row["low"] <= 0 <= row["high"]
        assert (row["num_songs"], row["num_reference"]) == (NUM_SONGS, NUM_SONGS)


def test_the_tagger_is_an_embedding_and_its_width_is_weighed() -> None:
    """A few songs say little of twenty numbers' covariances, and the reader must be told."""
    torch.manual_seed(0)
    tagger = Tagger(
        TaggerConfig(instruments=("a",), styles=("b",), num_mels=24, widths=(4, 6), embedding=20)
    ).eval()
    sets = SetsOfSongs([tagger, Projection()])
    for one, other in zip(pieces()[:NUM_SONGS], pieces()[NUM_SONGS:], strict=True):
        sets.add_reference(one)
        sets.add_song(other)
    found = sets.distances()
    assert [row["embedding"] for row in found["distances"]] == ["tagger"] * 2 + ["projection"] * 2
    assert len(found["tables"][0]["rows"]) == 4
    (note,) = found["notes"]
    assert "20 numbers of tagger" in note


@pytest.mark.parametrize(("num_songs", "num_reference"), [(FEWEST - 1, FEWEST), (FEWEST, 0)])
def test_too_few_songs_are_one_clear_note(num_songs: int, num_reference: int) -> None:
    """A distance from five songs is a story; an empty table looks like a result."""
    sets = SetsOfSongs([Projection()])
    for _ in range(num_songs):
        sets.add_song(pieces()[0])
    for _ in range(num_reference):
        sets.add_reference(pieces()[1])
    found = sets.distances()
    assert (found["distances"], found["tables"]) == ([], [])
    (note,) = found["notes"]
    assert f"{num_songs} songs and {num_reference} of the reference" in note


def test_a_reference_of_one_song_again_and_again_is_named() -> None:
    """Copies have no spread to measure a distance by."""
    sets = SetsOfSongs([Projection()])
    for wave_CN in pieces()[:FEWEST]:
        sets.add_song(wave_CN)
        sets.add_reference(pieces()[0])
    assert any("the same" in note for note in sets.distances()["notes"])


def test_without_an_embedding_nothing_is_said() -> None:
    """Who did not ask for distances is not told that they are missing."""
    sets = SetsOfSongs([])
    sets.add_song(pieces()[0])
    assert sets.distances() == {"distances": [], "tables": [], "notes": []}
