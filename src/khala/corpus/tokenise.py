"""``khala prepare``: a folder of songs and a codec -> a folder of codes.

Shape letters: C channels, N samples, Q levels, T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from khala.codec import Codec
from khala.corpus.prepare import SONGS_PER_SHARD, prepare
from khala.corpus.songs import open_corpus

__all__ = ["CodecEncoder", "tokenise_corpus"]


class CodecEncoder:
    """A codec as `prepare` wants one."""

    def __init__(self, path: Path | str, device: str = "cpu") -> None:
        self._codec = Codec.from_pretrained(path, device)
        self._device = device
        self.digest = self._codec.codes_digest()
        self.num_levels = self._codec.config.quantizer.num_levels
        self.codebook_size = self._codec.config.quantizer.codebook_size

    def encode(self, wave_CN: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return codes_QT of one song."""
        wave_BCN = torch.from_numpy(wave_CN)[None].to(self._device)
        codes_QT: NDArray[np.int64] = self._codec.encode(wave_BCN)[0].cpu().numpy()
        return codes_QT


def tokenise_corpus(
    corpus_dir: Path | str,
    codec: Path | str,
    out: Path | str,
    *,
    device: str = "cpu",
    songs_per_shard: int = SONGS_PER_SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Encode a demo corpus, or a user's own folder of audio, into checked shards.

    Args:
        corpus_dir: written by ``khala synth`` (it has a corpus.json), or any folder of audio.
        codec: a model folder or its ``codec/``.
        out: where the shards go; finished ones are kept.
        device: "cpu" or "cuda".
        songs_per_shard: a shard is the unit of resuming.
        progress: called with (songs done, songs in all).

    Raises:
        CorpusError: nothing to encode, or ``out`` belongs to another corpus or codec.
        CheckpointError: no codec there.
    """
    return prepare(
        open_corpus(corpus_dir),
        out,
        CodecEncoder(codec, device),
        songs_per_shard=songs_per_shard,
        progress=progress,
    )
