"""``khala eval tagger``: train it where there is none, and say how far it can be trusted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from khala.audio import check_output
from khala.corpus import HELD_OUT, Corpus, CorpusSong, open_corpus
from khala.errors import ConfigError, CorpusError
from khala.evals import report
from khala.evals.tagger.model import HeardTags, Tagger
from khala.evals.tagger.scoring import Hits, average_precision, count_hits
from khala.evals.tagger.training import TaggerTraining, split_songs, train_tagger, truth_of

Bools = npt.NDArray[np.bool_]

MOST_CONFUSED = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TaggerEval:
    """Arguments of ``khala eval tagger``."""

    corpus: Path
    """Demo corpus with ground truth."""

    tagger: Path
    """Folder of the tagger: trained into it first if it holds none."""

    minutes: float = 10.0
    """Wall clock of the training loop."""

    max_hours: float = 4.0
    """Audio to train on, shared among all songs; 30 MB of memory an hour."""

    songs: int = 60
    """Songs scored per split."""

    seed: int = 0
    """Of the training."""

    out: Path | None = None
    """Folder for tagger.json and tagger.html."""


def run_tagger_eval(
    corpus: Path,
    tagger: Path,
    minutes: float = 10.0,
    max_hours: float = 4.0,
    songs: int = 60,
    seed: int = 0,
    out: Path | None = None,
    on_message: report.OnMessage = report.ignore_messages,
) -> dict[str, Any]:
    """Train a tagger if the folder has none, then score it on songs it never heard.

    Raises:
        CorpusError: the corpus has no truth about instruments and styles, or no held-out song.
        CheckpointError: the tagger in the folder is damaged, or another kind of model.
        ConfigError: the folder holds something else, which training would replace.
    """
    arguments = {key: value for key, value in locals().items() if key != "on_message"}
    if songs < 1:
        raise ConfigError(f"--songs is {songs}: at least 1")
    opened = open_corpus(corpus)
    held_out = [song for split in HELD_OUT for song in opened.split(split)[-songs:]]
    if not held_out:
        raise CorpusError(f"{corpus} has no held-out song yet")
    trained: dict[str, Any] = {}
    if not (tagger / "config.json").is_file():
        training = TaggerTraining(minutes=minutes, max_hours=max_hours, seed=seed)
        trained = _train(opened, tagger, training, on_message)
    model = Tagger.from_pretrained(tagger)
    heard = _hear(opened, held_out, model, on_message)
    _, kept = split_songs(opened)
    # thresholds are chosen on these, but nothing of singing is: here are songs that nobody sings
    kept_heard = _hear(opened, kept[-songs:], model, on_message)
    errors = {
        "num_songs": len(held_out),
        "instruments": _instruments(model, held_out, heard),
        "style": _style(held_out, heard),
        "singing": {
            "held out": _singing(held_out, heard),
            "train, kept apart": _singing(kept[-songs:], kept_heard),
        },
    }
    _remember(tagger, errors, on_message)
    result = {
        **trained,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "names": {"instruments": model.config.instruments, "styles": model.config.styles},
        "left_out": model.config.left_out,
        **errors,
        "tables": _tables(errors, _confused(held_out, heard)),
        "notes": _notes(model, tagger),
    }
    return report.finish("tagger", result, arguments=arguments, out=out)


def tagger_errors(folder: Path) -> str:
    """Return the tagger's own errors in one line, as measured when it was last evaluated."""
    path = folder / "errors.json"
    if not path.is_file():
        return (
            "how well this tagger hears is not known: run khala eval tagger once, and its errors "
            "stand beside every score"
        )
    try:
        errors = json.loads(path.read_text(encoding="utf-8"))
        every, style = errors["instruments"]["all"], errors["style"]
        return (
            f"the tagger's own errors on {int(errors['num_songs'])} held-out originals: of the "
            f"instruments it hears {float(every['precision']):.2f} are there (guessing "
            f"{float(every['base_rate']):.2f}), of those there it hears "
            f"{float(every['recall']):.2f}; its style is right for "
            f"{float(style['accuracy']):.2f} (chance {float(style['chance']):.2f})"
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{path} cannot be read: run khala eval tagger again"


def _train(
    corpus: Corpus, folder: Path, training: TaggerTraining, on_message: report.OnMessage
) -> dict[str, Any]:
    """Train a tagger into a folder that holds nothing else: saving replaces it as a whole."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} holds no tagger but something else: give a folder of its own")
    check_output(folder.resolve().parent / "model.safetensors")
    model = train_tagger(corpus, training, on_message=on_message)
    digest = model.save(folder)
    on_message(f"saved to {folder}")
    return {"training": asdict(training), "digest": digest}


def _hear(
    corpus: Corpus, songs: Sequence[CorpusSong], model: Tagger, on_message: report.OnMessage
) -> list[HeardTags]:
    heard = []
    for number, song in enumerate(songs, start=1):
        heard.append(model.hear(corpus.read(song)))
        if number % 50 == 0:
            on_message(f"{number} of {len(songs)} songs heard")
    return heard


def _instruments(
    model: Tagger, songs: Sequence[CorpusSong], heard: Sequence[HeardTags]
) -> dict[str, Any]:
    """Return the figures of every instrument by name, and of "all" judgements together."""
    names = model.config.instruments
    truths = [truth_of(song)[0] for song in songs]
    there_NI: Bools = np.array([[name in truth for name in names] for truth in truths])
    heard_NI: Bools = np.array([[name in one.instruments for name in names] for one in heard])
    chances_NI = np.stack([one.chances_I for one in heard])
    found: dict[str, Any] = {}
    precisions = []
    for index, name in enumerate(names):
        precision = average_precision(chances_NI[:, index], there_NI[:, index])
        found[name] = {
            **_figures(count_hits(heard_NI[:, index], there_NI[:, index])),
            "average_precision": precision,
            "threshold": float(model.thresholds_I[index]),
        }
        precisions += [] if precision is None else [precision]
    found["all"] = {
        **_figures(count_hits(heard_NI, there_NI)),
        "average_precision": float(np.mean(precisions)) if precisions else None,
        "threshold": None,
    }
    return found


def _figures(hits: Hits) -> dict[str, float | int | None]:
    return {
        "num_there": hits.num_there,
        "base_rate": hits.base_rate,
        "precision": hits.precision,
        "recall": hits.recall,
        "f1": hits.f1,
    }


def _style(songs: Sequence[CorpusSong], heard: Sequence[HeardTags]) -> dict[str, float | int]:
    """Return how often the style is right, beside always naming the commonest one."""
    styles = [truth_of(song)[1] for song in songs]
    right = np.array([one.style == style for one, style in zip(heard, styles, strict=True)])
    return {
        "num_songs": len(songs),
        "accuracy": float(right.mean()),
        "standard_error": float(right.std() / np.sqrt(len(right))),
        "chance": Counter(styles).most_common(1)[0][1] / len(songs),
    }


def _singing(songs: Sequence[CorpusSong], heard: Sequence[HeardTags]) -> dict[str, Any]:
    """Return how often singing is told right where somebody sings, and where nobody does."""
    found: dict[str, Any] = {}
    for name, wanted in (("sung", True), ("instrumental", False)):
        judged = [
            one.sings is wanted
            for song, one in zip(songs, heard, strict=True)
            if song.instrumental is not wanted
        ]
        found[name] = {
            "num_songs": len(judged),
            "accuracy": float(np.mean(judged)) if judged else None,
        }
    return found


def _confused(songs: Sequence[CorpusSong], heard: Sequence[HeardTags]) -> list[list[report.Cell]]:
    pairs = Counter(
        (truth_of(song)[1], one.style)
        for song, one in zip(songs, heard, strict=True)
        if truth_of(song)[1] != one.style
    )
    return [[style, other, times] for (style, other), times in pairs.most_common(MOST_CONFUSED)]


def _tables(errors: dict[str, Any], confused: list[list[report.Cell]]) -> list[dict[str, Any]]:
    columns = ["num_there", "base_rate", "average_precision", "threshold", "precision", "recall",
               "f1"]  # fmt: skip
    style = errors["style"]
    judged: list[list[report.Cell]] = [
        ["style", style["num_songs"], style["accuracy"], style["chance"]]
    ]
    for group, figures in errors["singing"].items():
        for name, one in figures.items():
            judged.append([f"singing ({name}; {group})", one["num_songs"], one["accuracy"], None])
    return [
        report.table(
            f"Instruments of {errors['num_songs']} held-out originals",
            ["instrument", "songs", "base rate", "average precision", "threshold", "precision",
             "recall", "F1"],
            [
                [name, *(figures[column] for column in columns)]
                for name, figures in errors["instruments"].items()
            ],
        ),
        report.table("Style and singing", ["what", "songs", "right", "chance"], judged),
        report.table("Most confused styles", ["style", "heard", "times"], confused),
    ]  # fmt: skip


def _notes(model: Tagger, folder: Path) -> list[str]:
    notes = [tagger_errors(folder)]
    if model.config.left_out:
        notes.append("too rare to be learned: " + ", ".join(model.config.left_out))
    return notes


def _remember(folder: Path, errors: dict[str, Any], on_message: report.OnMessage) -> None:
    """Leave the tagger's own errors beside it, for all who use it."""
    try:
        report.write_result(folder / "errors.json", errors)
    except OSError as error:
        on_message(f"its errors are not kept beside it: {error.strerror}")
