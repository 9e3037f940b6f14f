"""The dial: how good a song is at k levels, and how long they take.

Shape letters: Q levels, T frames, C channels, N samples.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from khala.codec import Codec
from khala.corpus import CodesExample, Corpus
from khala.errors import CorpusError
from khala.evals.distances import Wave, mel_distance, multi_stft_distance
from khala.superres import SuperResolution

__all__ = ["STOPS", "Stop", "original_wave", "turn_dial"]

STOPS = (2, 4, 8, 16, 32, 64)
"""Those below the number of levels, and that number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """One song at k levels."""

    levels: int
    """k."""

    mel80: float
    """Distance to the original, fine levels written by the model."""

    multi_stft: float
    """The same in the multi-resolution STFT."""

    true_mel80: float
    """Distance to the original with true levels: what the codec would reach."""

    superres_s: float
    """Seconds to write levels 2 to k."""

    decode_s: float
    """Seconds to decode k levels."""


def turn_dial(
    codec: Codec,
    superres: SuperResolution,
    prompt: Sequence[int],
    example: CodesExample,
    original_CN: Wave,
    *,
    top_k: int | None,
    seed: int,
) -> list[Stop]:
    """Complete a song from its true coarse codes to every stop, each timed from the coarse ones.

    One completion makes all: the levels of a song do not depend on how many follow.
    """
    num_frames = original_CN.shape[1] // codec.config.hop
    true_QT = torch.from_numpy(example.codes_QT[:, :num_frames].astype(np.int64))
    passed_s: dict[int, float] = {2: 0.0}
    started = time.perf_counter()

    def note(done: int) -> None:
        passed_s[done] = time.perf_counter() - started

    full_QT = superres.complete(
        prompt,
        true_QT[:2],
        top_k=top_k,
        seed=seed,
        on_level=note,
    )
    stops = []
    num_levels = full_QT.shape[0]
    for levels in (*(stop for stop in STOPS if stop < num_levels), num_levels):
        began = time.perf_counter()
        wave_CN = _decoded(codec, full_QT[:levels])
        decode_s = time.perf_counter() - began
        stops.append(
            Stop(
                levels=levels,
                mel80=mel_distance(original_CN, wave_CN),
                multi_stft=multi_stft_distance(original_CN, wave_CN),
                true_mel80=mel_distance(original_CN, _decoded(codec, true_QT[:levels])),
                superres_s=passed_s[levels],
                decode_s=decode_s,
            )
        )
    return stops


def original_wave(corpus: Corpus, codec: Codec, example: CodesExample, num_frames: int) -> Wave:
    """Return the first frames of a recording, silence after its end.

    Raises:
        CorpusError: the corpus has no such song.
    """
    found = [song for song in corpus.songs if song.id == example.id]
    if not found:
        raise CorpusError(f"song {example.id} is not in {corpus.folder}")
    num_samples = num_frames * codec.config.hop
    wave_CN = corpus.read(found[0])[:, :num_samples]
    return np.pad(wave_CN, ((0, 0), (0, num_samples - wave_CN.shape[1])))


def _decoded(codec: Codec, codes_QT: torch.Tensor) -> Wave:
    device = codec.quantizer.codebooks.device
    wave_BCN: torch.Tensor = codec.decode(codes_QT[None].to(device))
    return wave_BCN[0].cpu().numpy()
