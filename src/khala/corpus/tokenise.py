"""``khala prepare``: songs and a codec -> codes.

Shape letters: C channels, N samples, Q levels, T frames.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from khala.codec import Codec
from khala.corpus.checks import SongLimits
from khala.corpus.engines import Engine
from khala.corpus.prepare import SONGS_PER_SHARD, Progress, Report, prepare
from khala.corpus.sources import find_items

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


@lru_cache(maxsize=1)
def _open_encoder(path: str, device: str, num_threads: int | None) -> CodecEncoder:
    """Load a codec once in each process; processes side by side share the cores."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    return CodecEncoder(path, device)


def tokenise_corpus(
    source: Path | str,
    codec: Path | str,
    out: Path | str,
    *,
    device: str = "cpu",
    limits: SongLimits | None = None,
    songs_per_shard: int = SONGS_PER_SHARD,
    keep_duplicates: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Report:
    """Encode a demo corpus, a folder of audio or a manifest into checked shards.

    Args:
        source: written by ``khala synth``, any folder of audio, a ``.jsonl`` or ``.csv`` that
            lists songs, or the URL of one of these in an object store.
        codec: "nano", a model folder or its ``codec/``.
        out: where the shards go, a folder or a URL; finished ones are kept.
        device: "cpu" or "cuda".
        limits: which songs are taken.
        songs_per_shard: a shard is the unit of resuming.
        keep_duplicates: take recordings that are there twice too.
        engine: who works; this process if not given.
        progress: called with (songs done, songs in all).

    Raises:
        CorpusError: nothing to encode, or ``out`` belongs to another source or codec.
        CheckpointError: no codec there.
    """
    own_threads = None if engine is None else 1
    return prepare(
        find_items(source),
        out,
        partial(_open_encoder, str(codec), device, own_threads),
        limits=limits,
        songs_per_shard=songs_per_shard,
        keep_duplicates=keep_duplicates,
        engine=engine,
        progress=progress,
    )
