"""What songs are compared by: anything that turns a whole song into one vector.

The built-in one is the tagger's. Any audio encoder that `transformers` can read from a folder is
another (`khala.evals.pretrained`).

Shape letters, this file only: C channels, N samples, D width.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from khala.evals.distances import Wave

__all__ = ["Embedding"]


class Embedding(Protocol):
    """One vector a song; the same song gives the same vector."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    def embed(self, wave_CN: Wave) -> npt.NDArray[np.float32]:
        """Return [D] for a 44.1 kHz song, mono or stereo, of any length."""
        ...
