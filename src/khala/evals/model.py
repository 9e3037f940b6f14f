"""``khala eval model``: both models of a folder together, on held-out songs.

Costs of every level, calibration, what the right lyrics are worth, reading one's own writing
against reading true codes, and the dial from two levels to all.

Shape letters: Q levels, T frames, K codes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from khala.backbone import Backbone
from khala.codec import Codec
from khala.corpus import CodesExample, open_codes, open_corpus
from khala.errors import CorpusError
from khala.evals import plots, report
from khala.evals.calibration import Guesses, calibration_error, reliability
from khala.evals.completion import held_out_in_turn
from khala.evals.dial import Stop, original_wave, turn_dial
from khala.evals.drift import WINDOW_S, Course, courses, window_means
from khala.evals.fine_levels import fine_logits
from khala.evals.language import check_codec, coarse_logits, load_tokenizer, other_lyrics
from khala.evals.prompts import request_of
from khala.superres import SuperResolution
from khala.tokens import COARSE_LEVELS, build_prompt

LYRICS_LEVELS = frozenset({0, 1, 2, 3, 7, 15, 31, 63})
"""Levels whose cost is measured with other lyrics too: a pass over the song for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEval:
    """Arguments of ``khala eval model``."""

    model: Path
    """Model folder with codec/, backbone/, superres/ and tokenizer.json."""

    codes: Path
    """Folder written by ``khala prepare`` with the model's codec."""

    corpus: Path
    """The songs themselves: the dial is judged by distance to the original."""

    out: Path | None = None
    """Folder for model.json, model.png and model.html."""

    songs: int = 9
    """Held-out songs, in turn from every split."""

    seconds: float = 30.0
    """Taken from the start of each song."""

    top_k: int = 1024
    """Codes kept by the backbone when it writes; all of them: what it believes, untouched."""

    seed: int = 0
    """Of everything that is drawn."""

    device: str = "cpu"
    """Where the models run."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One song under both models."""

    example: CodesExample
    guesses: dict[int, Guesses]
    """By level, each given the true codes before it and below it."""

    lyrics_gaps: dict[int, float]
    """Nats that other lyrics cost more, by some of the levels; empty for instrumentals."""

    course: Course
    dial: list[Stop]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What is judged."""

    codec: Codec
    backbone: Backbone
    superres: SuperResolution
    tokenizer: Any

    def prompt(self, example: CodesExample, lyrics: str | None = None) -> list[int]:
        """Return the prompt of a song, perhaps with other lyrics."""
        positions = min(self.backbone.config.max_positions, self.superres.config.max_positions)
        request = request_of(example, lyrics=lyrics)
        layout = self.backbone.config.layout
        return build_prompt(request, layout, self.tokenizer, max_tokens=positions // 2)

    def room(self, example: CodesExample, other_lyrics: str | None) -> int:
        """Return how many frames fit both models after either prompt."""
        longest = max(len(self.prompt(example, lyrics)) for lyrics in (None, other_lyrics))
        coarse = (self.backbone.config.max_positions - longest) // COARSE_LEVELS
        return min(coarse, self.superres.config.max_positions - longest)


def run_model_eval(
    model: Path,
    codes: Path,
    corpus: Path,
    out: Path | None = None,
    songs: int = 9,
    seconds: float = 30.0,
    top_k: int = 1024,
    seed: int = 0,
    device: str = "cpu",
    on_message: report.OnMessage = report.ignore_messages,
) -> dict[str, Any]:
    """Judge backbone and super-resolution on held-out songs, level by level and as a whole.

    Raises:
        CorpusError: no held-out song, codes of another codec, or a song missing in the corpus.
        RequestError: a song's prompt does not fit the models.
        CheckpointError: a model cannot be read.
    """
    arguments = dict(locals())
    arguments.pop("on_message")
    if songs < 2:
        raise CorpusError(f"--songs is {songs}: at least 2")
    dataset, opened = open_codes(codes), open_corpus(corpus)
    check_codec(model, dataset)
    parts = Pipeline(
        codec=Codec.from_pretrained(model, device=device),
        backbone=Backbone.from_pretrained(model).to(device).eval(),
        superres=SuperResolution.from_pretrained(model).to(device).eval(),
        tokenizer=load_tokenizer(model),
    )
    chosen = held_out_in_turn(dataset, songs)
    config = parts.codec.config
    frame_rate_hz = config.sample_rate_hz / config.hop
    judged = []
    for place, (example, other) in enumerate(zip(chosen, other_lyrics(chosen), strict=True)):
        wanted = max(1, round(seconds * frame_rate_hz))
        num_frames = min(wanted, example.num_frames, parts.room(example, other))
        original_CN = original_wave(opened, parts.codec, example, num_frames)
        prompt = parts.prompt(example)
        guesses, gaps = _guesses(parts, example, other, num_frames)
        course = courses(
            parts.backbone,
            parts.tokenizer,
            example,
            other,
            num_frames=num_frames,
            top_k=top_k,
            seed=seed + place,
        )
        dial = turn_dial(
            parts.codec, parts.superres, prompt, example, original_CN, top_k=None, seed=seed + place
        )
        judged.append(
            Judged(example=example, guesses=guesses, lyrics_gaps=gaps, course=course, dial=dial)
        )
        on_message(f"song {place + 1} of {len(chosen)}: {example.id}")
    result = _summary(judged, frame_rate_hz=frame_rate_hz, seconds=seconds)
    return report.finish(
        "model",
        result,
        arguments=arguments,
        out=out,
        draw=lambda path: _plot(path, result, on_message),
    )


def _guesses(
    parts: Pipeline, example: CodesExample, other: str | None, num_frames: int
) -> tuple[dict[int, Guesses], dict[int, float]]:
    """Return what both models say of every level of a song, and what its lyrics are worth."""
    codes_QT = example.codes_QT[:, :num_frames].astype(np.int64)
    coarse_2T = torch.from_numpy(codes_QT[:COARSE_LEVELS])

    def judge(lyrics: str | None, levels: Iterable[int]) -> dict[int, Guesses]:
        prompt = parts.prompt(example, lyrics)
        logits_2TK = coarse_logits(parts.backbone, prompt, coarse_2T)
        one = {level: Guesses.of(logits_2TK[level], coarse_2T[level]) for level in (0, 1)}
        for level in levels:
            logits_TK = fine_logits(parts.superres, prompt, codes_QT, level)
            one[level] = Guesses.of(logits_TK, torch.from_numpy(codes_QT[level]))
        return one

    fine = range(COARSE_LEVELS, parts.superres.config.layout.num_levels)
    right = judge(None, fine)
    wrong = {} if other is None else judge(other, [at for at in fine if at in LYRICS_LEVELS])
    return right, {
        level: float(one.nats_N.mean() - right[level].nats_N.mean()) for level, one in wrong.items()
    }


def _summary(judged: Sequence[Judged], *, frame_rate_hz: float, seconds: float) -> dict[str, Any]:
    levels = _levels(judged)
    shown = [row for row in levels if row["level"] < 8 or row["level"] % 8 == 7]
    free = _free_running(judged, frame_rate_hz)
    dial = _dial(judged)
    some = [level for level in (0, 1, 2, 15, 63) if level in judged[0].guesses]
    return {
        "num_songs": len(judged),
        "songs": [
            {
                "song": one.example.id,
                "nats of true codes": float(one.course.true_nats_T.mean()),
                "nats of own codes": float(one.course.own_nats_T.mean()),
                **{f"mel80 at {stop.levels} levels": stop.mel80 for stop in one.dial},
            }
            for one in judged
        ],
        "levels": levels,
        "reliability": {
            str(level): reliability(Guesses.joined([one.guesses[level] for one in judged]))
            for level in some
        },
        "free_running": free,
        "dial": dial,
        "tables": [
            report.table(
                "Level by level, given true codes",
                list(levels[0]),
                [[int(row["level"]), *list(row.values())[1:]] for row in shown],
            ),
            report.table(
                "Reading true codes, and reading its own (nats per token)",
                ["seconds", "true codes", "expected", "own codes", "expected"],
                [[row["from_s"], *list(row.values())[1:]] for row in free["windows"]],
            ),
            report.table(
                "What the right lyrics are worth (nats per token)",
                ["to", "worth", "s.e."],
                [
                    ["true songs", free["true_gap"], free["true_gap_standard_error"]],
                    ["its own songs", free["own_gap"], free["own_gap_standard_error"]],
                ],
            ),
            report.table("The dial", list(dial[0]), [list(row.values()) for row in dial]),
        ],
        "notes": [
            "calibration error: mean gap between how sure the model is of its likeliest code and "
            "how often that is right, over ten groups of equal size; 0 is perfect",
            "expected: the entropy of what the model predicts. A model that is right about songs "
            "pays what it expects; one whose own songs cost less than true ones is surer of them "
            "than songs are, one that pays more and more as it goes on has lost its way",
            f"dial: from true coarse codes, means over {len(judged)} songs of up to {seconds:g} s; "
            "seconds are those of this computer",
        ],
    }


def _levels(judged: Sequence[Judged]) -> list[dict[str, float]]:
    """Return cost, expected cost, calibration error and worth of the lyrics of every level."""
    rows = []
    for level in judged[0].guesses:
        guesses = Guesses.joined([one.guesses[level] for one in judged])
        gap, error = _mean([one.lyrics_gaps[level] for one in judged if level in one.lyrics_gaps])
        rows.append(
            {
                "level": float(level),
                "nats": float(guesses.nats_N.mean()),
                "expected": float(guesses.entropy_N.mean()),
                "likeliest right": float(guesses.is_right_N.mean()),
                "calibration error": calibration_error(guesses),
                "lyrics worth": gap,
                "s.e.": error,
            }
        )
    return rows


def _free_running(judged: Sequence[Judged], frame_rate_hz: float) -> dict[str, Any]:
    """Return costs by window of true songs and the model's own, and what lyrics are worth."""
    names = ("true_nats_T", "true_entropy_T", "own_nats_T", "own_entropy_T")
    columns = [
        window_means([getattr(one.course, name) for one in judged], frame_rate_hz=frame_rate_hz)
        for name in names
    ]
    true_gap, true_error = _mean([one.course.true_gap for one in judged])
    own_gap, own_error = _mean([one.course.own_gap for one in judged])
    return {
        "windows": [
            {"from_s": place * WINDOW_S, **dict(zip(names, map(float, row), strict=True))}
            for place, row in enumerate(zip(*columns, strict=True))
        ],
        "true_gap": true_gap,
        "true_gap_standard_error": true_error,
        "own_gap": own_gap,
        "own_gap_standard_error": own_error,
    }


def _dial(judged: Sequence[Judged]) -> list[dict[str, float]]:
    """Return the means of every stop."""
    by_levels: defaultdict[int, list[Stop]] = defaultdict(list)
    for one in judged:
        for stop in one.dial:
            by_levels[stop.levels].append(stop)
    return [
        {
            "levels": levels,
            "mel80": float(np.mean([stop.mel80 for stop in stops])),
            "multi-STFT": float(np.mean([stop.multi_stft for stop in stops])),
            "mel80, true codes": float(np.mean([stop.true_mel80 for stop in stops])),
            "super-resolution, s": float(np.mean([stop.superres_s for stop in stops])),
            "decoding, s": float(np.mean([stop.decode_s for stop in stops])),
        }
        for levels, stops in by_levels.items()
    ]


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard error of what is known; NaN where too little is."""
    known = np.array([value for value in values if np.isfinite(value)])
    if known.size < 2:
        return float("nan"), float("nan")
    return float(known.mean()), float(known.std(ddof=1)) / known.size**0.5


def _plot(path: Path, result: dict[str, Any], on_message: report.OnMessage) -> None:
    """Draw the dial, the way through a song, and how sure the models are."""
    dial, windows = result["dial"], result["free_running"]["windows"]
    sure = {
        f"level {level}": [(confidence, right) for confidence, right, _ in groups]
        for level, groups in result["reliability"].items()
    }
    most = max(max(point) for points in sure.values() for point in points)
    panels = [
        plots.Panel(
            title="mel80 to the original",
            x_label="levels",
            series={
                "super-resolution": [(row["levels"], row["mel80"]) for row in dial],
                "true codes": [(row["levels"], row["mel80, true codes"]) for row in dial],
            },
        ),
        plots.Panel(
            title="seconds",
            x_label="levels",
            series={
                "with decoding": [
                    (row["levels"], row["super-resolution, s"] + row["decoding, s"]) for row in dial
                ]
            },
        ),
        plots.Panel(
            title="nats per token",
            x_label="seconds into the song",
            series={
                label: [(row["from_s"] + WINDOW_S / 2, row[name]) for row in windows]
                for label, name in (
                    ("true codes", "true_nats_T"),
                    ("own codes", "own_nats_T"),
                    ("own codes, expected", "own_entropy_T"),
                )
            },
            is_log=False,
        ),
        plots.Panel(
            title="share right",
            x_label="how sure",
            series={**sure, "perfect": [(0.0, 0.0), (most, most)]},
            is_log=False,
        ),
    ]
    plots.save_curves(path, panels, on_message=on_message)
