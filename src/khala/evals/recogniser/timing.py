"""When each word is sung: the lyric laid along what the recogniser hears (forced alignment).

Shape letters: S recogniser steps, P phonemes + 1, L phonemes of the lyric, N states (2 L + 1).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from khala.evals.distances import Wave
from khala.evals.recogniser.lyrics import WORD
from khala.evals.recogniser.model import STEP_S, Recogniser
from khala.tokens import sections

__all__ = ["TimedWord", "align_ids", "lrc_text", "time_words"]

Floats = npt.NDArray[np.float32]
NEVER = -np.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedWord:
    """One word of a lyric in time."""

    text: str
    """As it is written."""

    line: int
    """Number of its line among the sung ones, from 0."""

    start_s: float | None
    """None for a word whose pronunciation is not known."""

    end_s: float | None
    """Likewise."""


def align_ids(scores_SP: Floats, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last step of each label on the likeliest path through all of them.

    Viterbi over a CTC's states: a blank before, between and after the labels, which may be skipped
    except between two equal ones (https://doi.org/10.1145/1143844.1143891).

    Raises:
        ValueError: there are too few steps for the labels.
    """
    labels = np.zeros(2 * len(ids) + 1, dtype=np.int64)
    labels[1::2] = ids
    steps, states = len(scores_SP), len(labels)
    repeats = sum(one == other for one, other in itertools.pairwise(ids))
    if steps < len(ids) + repeats:
        raise ValueError(f"{len(ids)} phonemes do not fit into {steps} steps")
    may_skip = np.zeros(states, dtype=bool)
    may_skip[3::2] = labels[3::2] != labels[1:-2:2]
    best_N = np.full(states, NEVER)
    best_N[:2] = scores_SP[0, labels[:2]]
    came = np.zeros((steps, states), dtype=np.int8)
    for step in range(1, steps):
        one = np.concatenate([[NEVER], best_N[:-1]])
        two = np.where(may_skip, np.concatenate([[NEVER, NEVER], best_N[:-2]])[:states], NEVER)
        ways = np.stack([best_N, one, two])
        came[step] = ways.argmax(axis=0)
        best_N = ways.max(axis=0) + scores_SP[step, labels]
    state = states - 1 if states == 1 or best_N[-1] >= best_N[-2] else states - 2
    path = np.empty(steps, dtype=np.int64)
    for step in range(steps - 1, -1, -1):
        path[step] = state
        state -= int(came[step, state])
    found = []
    for index in range(len(ids)):
        places = np.flatnonzero(path == 2 * index + 1)
        found.append((int(places[0]), int(places[-1])))
    return found


def time_words(wave_CN: Wave, lyrics: str, ear: Recogniser) -> list[TimedWord]:
    """Return every word of a lyric with its time in a 44.1 kHz song.

    Raises:
        ValueError: no word of it can be pronounced, or the song is too short for them.
    """
    lines = [line for section in sections(lyrics) for line in section.lines]
    written = [
        (number, word)
        for number, line in enumerate(lines)
        for word in WORD.findall(line.replace("\u2019", "'"))
    ]
    place = {name: index + 1 for index, name in enumerate(ear.config.phonemes)}
    said = [ear.words.get(word.lower(), ()) for _, word in written]
    ids = [place[sound] for sounds in said for sound in sounds]
    if not ids:
        raise ValueError("no word of the lyrics has a known pronunciation")
    spans = iter(align_ids(ear.scores(wave_CN).numpy(), ids))
    timed = []
    for (number, word), sounds in zip(written, said, strict=True):
        own = [next(spans) for _ in sounds]
        timed.append(
            TimedWord(
                text=word,
                line=number,
                start_s=own[0][0] * STEP_S if own else None,
                end_s=(own[-1][1] + 1) * STEP_S if own else None,
            )
        )
    return timed


def lrc_text(words: Sequence[TimedWord]) -> str:
    """Return an enhanced .lrc: a line's time in front, each word's in angle brackets."""
    lines = []
    for number in sorted({word.line for word in words}):
        own = [word for word in words if word.line == number]
        starts = [word.start_s for word in own if word.start_s is not None]
        shown = [
            word.text if word.start_s is None else f"<{_clock(word.start_s)}> {word.text}"
            for word in own
        ]
        if starts:
            lines.append(f"[{_clock(starts[0])}] {' '.join(shown)}")
    return "\n".join(lines) + "\n"


def _clock(seconds: float) -> str:
    """Return mm:ss.xx."""
    hundredths = round(seconds * 100)
    return f"{hundredths // 6000:02d}:{hundredths // 100 % 60:02d}.{hundredths % 100:02d}"
