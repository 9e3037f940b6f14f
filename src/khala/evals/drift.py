"""What becomes of a backbone that reads its own writing: teacher-forced against free-running.

In training every code follows true ones; in a song each follows what was drawn before it. Where the
two differ, small errors feed on themselves: a model may grow surer and loop, or less sure and
wander, and it may forget its lyrics.

Shape letters: Q levels, T frames, K codes, W windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from khala.backbone import Backbone, generate_coarse
from khala.corpus import CodesExample
from khala.evals.calibration import Guesses
from khala.evals.language import coarse_logits
from khala.evals.prompts import request_of
from khala.tokens import COARSE_LEVELS, TextTokenizer, build_prompt

__all__ = ["WINDOW_S", "Course", "courses", "window_means"]

WINDOW_S = 5.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """One song frame by frame, each figure the mean of both levels, in nats."""

    true_nats_T: Floats
    """Paid for the true codes after true ones."""

    true_entropy_T: Floats
    """Expected to be paid there."""

    own_nats_T: Floats
    """Paid for the model's own codes after its own."""

    own_entropy_T: Floats
    """Expected to be paid there."""

    true_gap: float
    """Mean nats that other lyrics cost more, true codes; NaN without other lyrics."""

    own_gap: float
    """The same of the model's own song: what its words are worth to what it wrote."""


def courses(
    backbone: Backbone,
    tokenizer: TextTokenizer,
    example: CodesExample,
    other_lyrics: str | None,
    *,
    num_frames: int,
    top_k: int,
    seed: int,
) -> Course:
    """Score a held-out song, and one that the model writes for the same prompt, from the start.

    Args:
        other_lyrics: words of another song; None for an instrumental.
        num_frames: at most so many frames of both.
        top_k: codes kept when it writes; all of them make its own nats its own entropy.
        seed: of what it writes.

    Raises:
        RequestError: the prompt does not fit the model.
    """
    layout = backbone.config.layout
    limit = backbone.config.max_positions - 2 * COARSE_LEVELS

    def prompted(lyrics: str | None) -> list[int]:
        return build_prompt(request_of(example, lyrics=lyrics), layout, tokenizer, max_tokens=limit)

    prompt = prompted(None)
    most = (backbone.config.max_positions - len(prompt)) // COARSE_LEVELS
    true_2T = torch.from_numpy(
        example.codes_QT[:COARSE_LEVELS, : min(num_frames, most)].astype(np.int64)
    )
    own_2T, _ = generate_coarse(
        backbone,
        prompt,
        num_frames_min=true_2T.shape[1],
        num_frames_max=true_2T.shape[1],
        temperature=1.0,
        top_k=top_k,
        seed=seed,
    )
    found, gaps = [], []
    for codes_2T in (true_2T, own_2T.cpu()):
        guesses = _guesses(backbone, prompt, codes_2T)
        found.append(guesses)
        gap = float("nan")
        if other_lyrics is not None:
            other = prompted(other_lyrics)
            room = (backbone.config.max_positions - len(other)) // COARSE_LEVELS
            wrong = _guesses(backbone, other, codes_2T[:, :room])
            gap = float(np.mean([w.nats_N.mean() for w in wrong])) - float(
                np.mean([g.nats_N[:room].mean() for g in guesses])
            )
        gaps.append(gap)
    (true_nats_T, true_entropy_T), (own_nats_T, own_entropy_T) = (
        (
            np.mean([level.nats_N for level in guesses], axis=0),
            np.mean([level.entropy_N for level in guesses], axis=0),
        )
        for guesses in found
    )
    return Course(
        true_nats_T=true_nats_T,
        true_entropy_T=true_entropy_T,
        own_nats_T=own_nats_T,
        own_entropy_T=own_entropy_T,
        true_gap=gaps[0],
        own_gap=gaps[1],
    )


def _guesses(backbone: Backbone, prompt: Sequence[int], codes_2T: torch.Tensor) -> list[Guesses]:
    """Return what the model says of both levels of some codes after a prompt."""
    logits_2TK = coarse_logits(backbone, prompt, codes_2T)
    return [
        Guesses.of(logits_TK, codes_T)
        for logits_TK, codes_T in zip(logits_2TK, codes_2T, strict=True)
    ]


def window_means(songs: Sequence[Floats], *, frame_rate_hz: float) -> Floats:
    """Return the mean over songs of each window of `WINDOW_S`, [W]; songs may end early."""
    size = max(1, round(WINDOW_S * frame_rate_hz))
    longest = max(len(song) for song in songs)
    windows = []
    for start in range(0, longest, size):
        inside = [song[start : start + size] for song in songs if len(song) > start]
        windows.append(float(np.concatenate(inside).mean()))
    return np.array(windows)
