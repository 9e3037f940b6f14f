"""``khala eval recogniser``: train it, and say how far its ear can be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from khala.audio import check_output
from khala.corpus import HELD_OUT, Corpus, CorpusSong, open_corpus
from khala.errors import CorpusError
from khala.evals import report
from khala.evals.recogniser.lyrics import pronounce, sung_phonemes
from khala.evals.recogniser.model import Recogniser
from khala.evals.recogniser.scoring import (
    ErrorRate,
    error_rate,
    most_confused,
    scores_of,
    shuffled_error_rate,
)
from khala.evals.recogniser.timing import time_words
from khala.evals.recogniser.training import RecogniserTraining, train_recogniser


@dataclass(frozen=True, kw_only=True, slots=True)
class RecogniserEval:
    """Arguments of ``khala eval recogniser``."""

    corpus: Path
    """Demo corpus with ground truth."""

    recogniser: Path
    """Folder of the recogniser: written with --train, read without."""

    train: bool = False
    """Train it first, on the corpus's train split."""

    minutes: float = 15.0
    """Wall clock of the training loop."""

    max_hours: float = 4.0
    """Audio to train on; 50 MB of memory an hour."""

    songs: int = 24
    """Songs scored per split."""

    beam: int = 1
    """Width of the beam search; 1 is greedy."""

    out: Path | None = None
    """Folder for recogniser.json."""


def run_recogniser_eval(
    corpus: Path,
    recogniser: Path,
    train: bool = False,
    minutes: float = 15.0,
    max_hours: float = 4.0,
    songs: int = 24,
    beam: int = 1,
    out: Path | None = None,
    on_message: report.OnMessage = report.ignore_messages,
) -> dict[str, Any]:
    """Train if asked to, then score originals of every split, vocal stems and other songs' words.

    The error rate on originals is the floor of every other use of the recogniser, the one against
    shuffled lyrics its ceiling.

    Raises:
        CorpusError: the corpus has no held-out song with words.
        CheckpointError: there is no recogniser in the folder, and it was not to be trained.
    """
    arguments = dict(locals())
    opened = open_corpus(corpus)
    trained: dict[str, Any] = {}
    if train:
        training = RecogniserTraining(minutes=minutes, max_hours=max_hours)
        check_output(recogniser.resolve().parent / "model.safetensors")
        model = train_recogniser(opened, training, on_message=on_message)
        digest = model.save(recogniser)
        trained = {"training": asdict(training), "digest": digest}
        on_message(f"saved to {recogniser}")
    model = Recogniser.from_pretrained(recogniser)
    rates, confusions = _score_splits(opened, model, songs, beam, on_message)
    instrumental = _instrumental(opened, model, songs, beam)
    _remember(recogniser, rates, instrumental, on_message)
    timing = _word_starts(opened, model, songs)
    result = {
        **trained,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "num_phonemes": len(model.config.phonemes),
        "num_words": len(model.words),
        "per": {name: asdict(rate) for name, rate in rates.items()},
        "instrumental": instrumental,
        "word_starts": timing,
        "tables": [
            report.table(
                "Phoneme recogniser on originals",
                ["what it hears", "PER", "s.e.", "songs", "phonemes"],
                scores_of(rates),
            ),
            report.table("Most confused (test)", ["sung", "heard", "times"], confusions),
        ],
        "notes": [
            f"phonemes heard per second: {instrumental['heard_per_s_instrumental']:.2f} in "
            f"instrumental songs, {instrumental['heard_per_s_sung']:.2f} in sung ones",
            f"starts of {timing['num_words']} words of held-out songs: off by "
            f"{timing['median_error_s']:.3f} s in the median, "
            f"{100 * timing['within_100_ms']:.0f} % within a tenth of a second",
        ],
    }
    return report.finish("recogniser", result, arguments=_named(arguments), out=out)


def _score_splits(
    corpus: Corpus, model: Recogniser, num_songs: int, beam: int, on_message: report.OnMessage
) -> tuple[dict[str, ErrorRate], list[list[report.Cell]]]:
    rates: dict[str, ErrorRate] = {}
    confusions: list[list[report.Cell]] = []
    for split in ("train", *HELD_OUT):
        sung = sung_songs(corpus, split)[-num_songs:]
        if not sung:
            on_message(f"no song with words in split {split}: left out")
            continue
        wanted = [sung_phonemes(song.truth()) for song in sung]
        heard = _hear(sung, model, beam, corpus.read)
        rates[f"{split}: mix"] = error_rate(heard, wanted)
        on_message(f"{split}: PER {rates[f'{split}: mix'].per:.3f} over {len(sung)} songs")
        if split != "test":
            continue
        confusions = [list(row) for row in most_confused(heard, wanted)]
        written = [pronounce(song.lyrics, model.words)[0] for song in sung]
        rates["test: mix, phonemes of the lyric"] = error_rate(heard, written)
        with_stem = [song for song in sung if "vocals" in song.audio]
        if with_stem:
            stems = _hear(with_stem, model, beam, lambda song: corpus.read(song, "vocals"))
            wanted_stems = [sung_phonemes(song.truth()) for song in with_stem]
            rates["test: vocal stem"] = error_rate(stems, wanted_stems)
        if len(sung) > 1:
            rates["test: mix, shuffled lyrics"] = shuffled_error_rate(heard, wanted)
    if not any(name.startswith("test") for name in rates):
        raise CorpusError(f"{corpus.folder} has no held-out song with words yet")
    return rates, confusions


def sung_songs(corpus: Corpus, split: str) -> list[CorpusSong]:
    """Return the songs of a split in which somebody sings."""
    return [song for song in corpus.split(split) if not song.instrumental]


def _hear(
    songs: Sequence[CorpusSong], model: Recogniser, beam: int, read: Callable[[CorpusSong], Any]
) -> list[list[str]]:
    return [model.recognise(read(song), beam=beam) for song in songs]


def _instrumental(
    corpus: Corpus, model: Recogniser, num_songs: int, beam: int
) -> dict[str, float | int | None]:
    """Return how many phonemes a second it hears where nobody sings, and where somebody does."""
    held_out = [song for split in HELD_OUT for song in corpus.split(split)]
    if not any(song.instrumental for song in held_out):
        held_out += corpus.split("train")
    found: dict[str, float | int | None] = {}
    for name, wanted in (("instrumental", True), ("sung", False)):
        songs = [song for song in held_out if song.instrumental is wanted][:num_songs]
        seconds = sum(song.duration_s for song in songs)
        count = sum(len(one) for one in _hear(songs, model, beam, corpus.read))
        found[f"heard_per_s_{name}"] = count / seconds if seconds else float("nan")
        found[f"num_songs_{name}"] = len(songs)
    return found


def _word_starts(corpus: Corpus, model: Recogniser, num_songs: int) -> dict[str, float | int]:
    """Return how far the starts of words are from the truth when the lyric is laid along a mix."""
    held_out = [song for split in HELD_OUT for song in sung_songs(corpus, split)[-num_songs:]]
    errors: list[float] = []
    for song in held_out:
        found = time_words(corpus.read(song), song.lyrics, model)
        if len(found) == len(song.words):
            pairs = zip(found, song.words, strict=True)
            errors += [
                abs(one.start_s - other.start_s) for one, other in pairs if one.start_s is not None
            ]
    return {
        "num_words": len(errors),
        "median_error_s": float(np.median(errors)) if errors else float("nan"),
        "within_100_ms": float(np.mean(np.array(errors) <= 0.1)) if errors else float("nan"),
    }


def _remember(
    folder: Path,
    rates: dict[str, ErrorRate],
    instrumental: dict[str, float | int | None],
    on_message: report.OnMessage,
) -> None:
    """Leave the recogniser's own errors beside it, for all who use it."""
    try:
        per = {name: asdict(rate) for name, rate in rates.items()}
        report.write_result(
            folder / "errors.json", {"per": per, "heard_per_s": _heard_per_s(instrumental)}
        )
    except OSError as error:
        on_message(f"its errors are not kept beside it: {error.strerror}")


def recogniser_errors(folder: Path) -> str:
    """Return a recogniser's own errors in one line, as measured when it was last evaluated."""
    path = folder / "errors.json"
    if not path.is_file():
        return (
            "how well this recogniser hears is not known: run khala eval recogniser once, and its "
            "errors stand beside every score"
        )
    try:
        errors = json.loads(path.read_text(encoding="utf-8"))
        rates = [f"{name} {float(rate['per']):.2f}" for name, rate in errors["per"].items()]
        heard = [
            f"{float(rate):.2f} in {kind} songs"
            for kind, rate in errors.get("heard_per_s", {}).items()
            if rate is not None
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{path} cannot be read: run khala eval recogniser again"
    by_kind = f"; phonemes it hears a second: {', '.join(heard)}" if heard else ""
    return f"the recogniser's own phoneme error rates on originals: {', '.join(rates)}{by_kind}"


def _heard_per_s(instrumental: dict[str, float | int | None]) -> dict[str, float | None]:
    """Return phonemes a second by kind of song; None where the corpus has no such song."""
    return {
        kind: instrumental[f"heard_per_s_{kind}"] if instrumental[f"num_songs_{kind}"] else None
        for kind in ("instrumental", "sung")
    }


def _named(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key != "on_message"}
