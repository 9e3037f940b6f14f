"""A set of songs against a set of originals: how far apart they lie, in one or more embeddings.

Shape letters, this file only: C channels, N and M songs of two sets, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from khala.errors import ConfigError
from khala.evals.distances import Wave
from khala.evals.distributions import FEWEST, frechet_distance, kernel_distance
from khala.evals.embedding import Embedding
from khala.evals.tables import Cell, table

__all__ = ["SetsOfSongs"]

Floats = npt.NDArray[np.float64]

COLUMNS = (
    "embedding", "distance", "value", "low", "high", "biased", "num_songs", "num_reference"
)  # fmt: skip
SHOWN = ("by", "distance", "unbiased", "95 % from", "to", "biased", "songs", "reference")


class SetsOfSongs:
    """The embeddings of two sets, gathered while their songs are read one after another."""

    def __init__(self, embeddings: Sequence[Embedding]) -> None:
        self._embeddings = tuple(embeddings)
        self._songs: list[list[Floats]] = []
        self._reference: list[list[Floats]] = []

    def add_song(self, wave_CN: Wave) -> None:
        """Hear one song of the set that is judged."""
        self._songs.append(self._embedded(wave_CN))

    def add_reference(self, wave_CN: Wave) -> None:
        """Hear one song of the set that it is judged by."""
        self._reference.append(self._embedded(wave_CN))

    def _embedded(self, wave_CN: Wave) -> list[Floats]:
        return [one.embed(wave_CN).astype(np.float64) for one in self._embeddings]

    def distances(self) -> dict[str, Any]:
        """Return "distances", "tables" and "notes"; with too few songs one note and nothing else.

        Every distance is freed of its bias, with its 95 % interval, and beside it the biased value
        that others print. The kernels are as wide as the reference's songs lie apart.
        """
        num_songs, num_reference = len(self._songs), len(self._reference)
        found: dict[str, Any] = {"distances": [], "tables": [], "notes": []}
        if not self._embeddings:
            return found
        if min(num_songs, num_reference) < FEWEST:
            found["notes"].append(
                f"no distances between sets: {num_songs} songs and {num_reference} of the "
                f"reference, and it takes {FEWEST} of each"
            )
            return found
        for index, embedding in enumerate(self._embeddings):
            songs_ND, reference_MD = (
                np.stack([each[index] for each in one]) for one in (self._songs, self._reference)
            )
            kinds = {"Frechet": frechet_distance, "kernel (squared MMD)": kernel_distance}
            for kind, measure in kinds.items():
                about = {"embedding": embedding.name, "distance": kind}
                try:
                    distance = measure(reference_MD, songs_ND)
                except ConfigError as error:
                    found["notes"].append(f"no {kind} distance by {embedding.name}: {error}")
                    continue
                sizes = {"num_songs": num_songs, "num_reference": num_reference}
                found["distances"].append({**about, **asdict(distance), **sizes})
            if min(num_songs, num_reference) < 2 * songs_ND.shape[1]:
                found["notes"].append(
                    f"fewer songs than twice the {songs_ND.shape[1]} numbers of {embedding.name}: "
                    "covariances are rough and the Frechet interval is wide; read the kernel one"
                )
        rows: list[list[Cell]] = [[row[name] for name in COLUMNS] for row in found["distances"]]
        found["tables"].append(table("Distance of the set from the reference", SHOWN, rows))
        return found
