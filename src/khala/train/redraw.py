"""Fine levels as super-resolution draws them, for a decoder to learn from.

A decoder that has only seen true codes meets others in every generated song. Songs whose coarse
levels are true and whose fine levels are drawn, beside their recordings, teach it what to believe
(as vocoders are trained on predicted spectra, https://arxiv.org/abs/1712.05884 section 3.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from khala.checkpoint import digest, resolve_model, resolve_part
from khala.corpus import CodesExample, PreparedSong, open_codes, write_codes
from khala.errors import ConfigError, CorpusError
from khala.superres import SuperResolution
from khala.tokens import COARSE_LEVELS, TextTokenizer
from khala.train.device import precision_of
from khala.train.prompts import PromptConfig, Prompts

__all__ = ["redraw"]

SONGS_PER_SHARD = 2
"""A kill costs at most these: a song takes longer to draw than to write."""


def redraw(
    codes_dir: Path,
    model: Path,
    out: Path,
    *,
    songs: int = 64,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write songs of the train split with fine levels drawn by a super-resolution model.

    Args:
        codes_dir: written by ``khala prepare``.
        model: "nano", or a folder with superres/ and tokenizer.json.
        out: where the codes go; a run that was stopped goes on.
        songs: how many, spread evenly over the split; all of it if it has fewer.
        seed: of the first song's draws; the others follow.
        device: where the model runs.
        progress: called with (songs done, songs in all).

    Returns:
        ``out``, ready for `open_codes`.

    Raises:
        CorpusError: no song can be drawn, or ``out`` was begun with something else.
        CheckpointError: the model cannot be read.
    """
    if songs < 1:
        raise ConfigError(f"at least one song must be drawn, not {songs}")
    codes = open_codes(codes_dir)
    superres = SuperResolution.from_pretrained(model).to(device).eval()
    tokenizer = TextTokenizer.load(resolve_model(model) / "tokenizer.json")
    train = codes.split("train")
    prompts = Prompts(train, PromptConfig(), superres.config.layout, tokenizer, seed=seed)
    fitting = [index for index in range(len(train)) if _fits(superres, prompts, index)]
    if not fitting:
        raise CorpusError(f"{codes_dir} has no train song that this model can complete")
    places = np.linspace(0, len(fitting) - 1, min(songs, len(fitting)))
    chosen = [fitting[round(place)] for place in places]
    plan = {
        "codec": codes.codec_digest,
        "num_levels": codes.num_levels,
        "codebook_size": codes.codebook_size,
        "num_songs": len(chosen),
        "num_shards": -(-len(chosen) // SONGS_PER_SHARD),
        "songs_sha256": hashlib.sha256(
            "\n".join(train[index].id for index in chosen).encode()
        ).hexdigest(),
        "superres": digest(resolve_part(model, "superres")),
        "seed": seed,
    }

    def drawn(shard: int) -> Iterator[PreparedSong]:
        first = shard * SONGS_PER_SHARD
        for place in range(first, min(first + SONGS_PER_SHARD, len(chosen))):
            example = train[chosen[place]]
            codes_QT = _drawn(superres, prompts.ids(chosen[place]), example, seed + place)
            yield PreparedSong(song=example, codes_QT=codes_QT, duration_s=example.duration_s)

    write_codes(out, plan, drawn, num_songs=len(chosen), progress=progress)
    return out


def _fits(superres: SuperResolution, prompts: Prompts, index: int) -> bool:
    """Say whether a song and its prompt have room in the model."""
    longest = prompts.longest(index)
    num_frames = prompts.examples[index].num_frames
    return longest is not None and longest + num_frames <= superres.config.max_positions


def _drawn(
    superres: SuperResolution, prompt: list[int], example: CodesExample, seed: int
) -> NDArray[np.integer[Any]]:
    """Return all levels of a song, the fine ones drawn."""
    coarse_2T = torch.from_numpy(example.codes_QT[:COARSE_LEVELS].astype(np.int64))
    fast = precision_of(superres.lm_head.weight.device, "auto") == "bfloat16"
    found_QT = superres.complete(
        prompt, coarse_2T, seed=seed, autocast=torch.bfloat16 if fast else None
    )
    codes_QT: NDArray[np.integer[Any]] = found_QT.cpu().numpy()
    return codes_QT
