"""How the tagger learns: excerpts of every song of the train split, and what sounds in them.

An excerpt is labelled by the notes that the ground truth has in it: an instrument that rests is
not there. Every tenth song is kept apart, and thresholds are chosen on those.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from khala.corpus import Corpus, CorpusSong
from khala.errors import ConfigError, CorpusError
from khala.evals.distances import Wave
from khala.evals.learning import band_statistics, disturb, optimise
from khala.evals.report import OnMessage
from khala.evals.tagger.model import FLOOR, FRAME_S, Tagger, TaggerConfig, features
from khala.evals.tagger.scoring import best_threshold

KEEP_APART_EVERY = 10
FEWEST_NOTES, FEWEST_SOUNDING_S = 2, 1.0
"""An instrument is heard in a crop where it plays two notes, or one for a second."""

DULL_SHARE = 0.25
"""Of the crops, these lose their highs: a dull recording has the same band in it."""

INSTRUMENTS_WEIGHT = 6.0
"""Of the mean cross-entropy of instruments beside those of style and singing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaggerTraining:
    """How long and on how much the tagger is trained."""

    minutes: float
    """Wall clock of the training loop; the schedule is spread over it."""

    max_hours: float = 4.0
    """Audio kept in memory as features, 30 MB an hour: shared among all songs of the split."""

    fewest_songs: int = 30
    """An instrument of fewer songs is left out."""

    most_kept: int = 150
    """Songs kept apart for thresholds: every tenth, and no more than these."""

    batch: int = 32
    """Crops in a step."""

    peak_rate: float = 2e-3
    """Learning rate after the warm-up, falling to zero as a cosine."""

    max_steps: int = 1_000_000
    """An end by steps, for tests."""

    seed: int = 0
    """Of the initial weights, excerpts, crops and masks."""

    def __post_init__(self) -> None:
        if not self.minutes > 0 or not self.max_hours > 0:
            raise ConfigError(f"a training needs time and songs: {self}")
        if min(self.batch, self.max_steps, self.fewest_songs) < 1 or self.most_kept < 0:
            raise ConfigError(f"a training needs steps and a batch: {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """An excerpt of one song in memory, and what is played in it."""

    features_TM: npt.NDArray[np.float16]
    instruments_I: npt.NDArray[np.bool_]
    """Those of the whole song."""

    style: int
    sings: bool
    notes_N3: npt.NDArray[np.float64] | None
    """Which instrument (I is the voice), start and end in seconds of the excerpt; None: unknown."""


def train_tagger(
    corpus: Corpus,
    training: TaggerTraining,
    *,
    config: TaggerConfig | None = None,
    on_message: OnMessage,
) -> Tagger:
    """Train on the corpus's train split and return the tagger with its thresholds.

    Args:
        corpus: a demo corpus with ground truth.
        training: how long.
        config: sizes of the network; its names are taken from the corpus if none is given.
        on_message: takes progress lines.

    Raises:
        CorpusError: the train split has no truth about instruments and styles, or too few songs.
    """
    learned, kept = split_songs(corpus)
    if config is None:
        config = names_of(learned, training.fewest_songs)
    if config.left_out:
        on_message(
            f"in fewer than {training.fewest_songs} songs, so left out: "
            + ", ".join(config.left_out)
        )
    started = time.monotonic()
    examples = _load_examples(corpus, learned, config, training)
    seconds = FRAME_S * sum(len(one.features_TM) for one in examples)
    on_message(
        f"features of {len(examples)} songs, {seconds / 3600:.2f} h, in "
        f"{time.monotonic() - started:.0f} s; {len(config.instruments)} instruments, "
        f"{len(config.styles)} styles"
    )
    torch.manual_seed(training.seed)
    model = Tagger(config)
    mean_M, deviation_M = band_statistics([_level(example.features_TM) for example in examples])
    model.mean_M.copy_(mean_M)
    model.deviation_M.copy_(deviation_M)
    generator = np.random.default_rng(training.seed)
    optimise(
        model,
        lambda: _loss(model, _batch(examples, config, training.batch, generator)),
        minutes=training.minutes,
        max_steps=training.max_steps,
        peak_rate=training.peak_rate,
        on_message=on_message,
    )
    model.eval()
    choose_thresholds(model, corpus, kept[: training.most_kept])
    return model


def split_songs(corpus: Corpus) -> tuple[list[CorpusSong], list[CorpusSong]]:
    """Return the songs of the train split to learn from, and every tenth, which is kept apart.

    Raises:
        CorpusError: the split is empty.
    """
    songs = corpus.split("train")
    if not songs:
        raise CorpusError(f"{corpus.folder} has no song in its train split yet")
    kept = songs[KEEP_APART_EVERY - 1 :: KEEP_APART_EVERY]
    ids = {song.id for song in kept}
    return [song for song in songs if song.id not in ids], kept


def truth_of(song: CorpusSong) -> tuple[tuple[str, ...], str]:
    """Return the instruments and the style of a song.

    Raises:
        CorpusError: its ground truth names none.
    """
    truth = song.truth()
    if not {"instruments", "style"} <= truth.keys():
        raise CorpusError(f"the truth of song {song.id} names no instruments or no style")
    return tuple(str(name) for name in truth["instruments"]), str(truth["style"])


def names_of(songs: Sequence[CorpusSong], fewest_songs: int) -> TaggerConfig:
    """Return a tagger's configuration with every instrument that enough songs have, and all styles.

    Raises:
        CorpusError: no instrument is in so many songs.
    """
    counts: Counter[str] = Counter()
    styles: set[str] = set()
    for song in songs:
        instruments, style = truth_of(song)
        counts.update(set(instruments))
        styles.add(style)
    often = sorted(name for name, count in counts.items() if count >= fewest_songs)
    if not often:
        raise CorpusError(f"no instrument is in {fewest_songs} of {len(songs)} train songs")
    return TaggerConfig(
        instruments=tuple(often),
        styles=tuple(sorted(styles)),
        left_out=tuple(sorted(counts.keys() - set(often))),
    )


def choose_thresholds(model: Tagger, corpus: Corpus, songs: Sequence[CorpusSong]) -> None:
    """Set every instrument's threshold to the best one on songs that were not learned from."""
    if not songs:
        return
    chances_NI = np.stack([model.hear(corpus.read(song)).chances_I for song in songs])
    truths = [truth_of(song)[0] for song in songs]
    for index, name in enumerate(model.config.instruments):
        there_N = np.array([name in truth for truth in truths])
        model.thresholds_I[index] = best_threshold(chances_NI[:, index], there_N)


def _load_examples(
    corpus: Corpus, songs: Sequence[CorpusSong], config: TaggerConfig, training: TaggerTraining
) -> list[Example]:
    """Read one excerpt of every song, at a drawn place, all equally long; at least a window.

    Songs beyond ``max_hours`` are left out.
    """
    generator = np.random.default_rng((training.seed, 1))
    fair_s = training.max_hours * 3600 / len(songs)
    examples: list[Example] = []
    total_s = 0.0
    for place in generator.permutation(len(songs)).tolist():
        song = songs[place]
        length_s = min(max(fair_s, config.window_s), song.duration_s)
        if total_s + length_s > training.max_hours * 3600 and examples:
            break
        start_s = float(generator.uniform(0.0, song.duration_s - length_s))
        examples.append(load_example(corpus, song, config, start_s, length_s))
        total_s += length_s
    return examples


def load_example(
    corpus: Corpus, song: CorpusSong, config: TaggerConfig, start_s: float, length_s: float
) -> Example:
    """Read one song's sound and truth from ``start_s`` on."""
    truth = song.truth()
    wave_CN = corpus.read_mix(song, start_s, length_s - 1 / corpus.sample_rate_hz)
    return Example(
        features_TM=features(wave_CN, num_mels=config.num_mels).astype(np.float16),
        instruments_I=np.array([name in truth["instruments"] for name in config.instruments]),
        style=config.styles.index(truth["style"]),
        sings=not song.instrumental,
        notes_N3=_notes(truth, config, start_s),
    )


def _notes(
    truth: dict[str, Any], config: TaggerConfig, start_s: float
) -> npt.NDArray[np.float64] | None:
    """Return the notes of known instruments and of the voice, or None where none are told."""
    if not truth.get("notes"):
        return None
    place = {name: index for index, name in enumerate((*config.instruments, "vocals"))}
    rows = [
        (place[note["part"]], note["start_s"] - start_s, note["end_s"] - start_s)
        for note in truth["notes"]
        if note["part"] in place
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def labels(example: Example, start_s: float, length_s: float) -> tuple[npt.NDArray[np.bool_], bool]:
    """Return which instruments [I] are heard in a part of an excerpt, and whether somebody sings.

    Where the truth has no notes, those of the whole song.
    """
    if example.notes_N3 is None:
        return example.instruments_I, example.sings
    which_N = example.notes_N3[:, 0].astype(np.int64)
    begin_N = example.notes_N3[:, 1].clip(start_s, start_s + length_s)
    sounding_N = example.notes_N3[:, 2].clip(start_s, start_s + length_s) - begin_N
    num = len(example.instruments_I) + 1
    counts = np.bincount(which_N[sounding_N > 0], minlength=num)
    seconds = np.bincount(which_N, weights=sounding_N, minlength=num)
    heard = (counts >= FEWEST_NOTES) | (seconds >= FEWEST_SOUNDING_S)
    return heard[:-1] & example.instruments_I, bool(heard[-1])


def _level(features_TM: npt.NDArray[np.float16]) -> npt.NDArray[np.float16]:
    """Take the mean level away, as the model does."""
    return (features_TM - features_TM.astype(np.float32).mean()).astype(np.float16)


def _batch(
    examples: Sequence[Example], config: TaggerConfig, batch: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw crops: disturbed features [B, T, M], instruments [B, I], styles [B], singing [B]."""
    longest = max(len(example.features_TM) for example in examples)
    num_frames = min(round(config.window_s / FRAME_S), longest)
    spectra, instruments, styles, sings = [], [], [], []
    for index in generator.integers(len(examples), size=batch).tolist():
        example = examples[index]
        missing = max(0, num_frames - len(example.features_TM))
        first = int(generator.integers(len(example.features_TM) + missing - num_frames + 1))
        crop_TM = example.features_TM[first : first + num_frames].astype(np.float32)
        crop_TM = np.pad(crop_TM, ((0, missing), (0, 0)), mode="wrap")
        heard_I, somebody_sings = labels(example, first * FRAME_S, num_frames * FRAME_S)
        spectra.append(disturb(_dulled(crop_TM, generator), generator))
        instruments.append(heard_I)
        styles.append(example.style)
        sings.append(somebody_sings)
    return (
        torch.from_numpy(np.stack(spectra)),
        torch.from_numpy(np.stack(instruments)).float(),
        torch.tensor(styles),
        torch.tensor(sings).float(),
    )


def _dulled(crop_TM: npt.NDArray[np.float32], generator: np.random.Generator) -> Wave:
    """Empty the bands above a drawn one in some of the crops."""
    num_mels = crop_TM.shape[1]
    if generator.random() < DULL_SHARE:
        crop_TM[:, int(generator.integers(num_mels // 3, num_mels)) :] = np.log(FLOOR)
    return crop_TM


def _loss(model: Tagger, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    features_BTM, there_BI, style_B, sings_B = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding_BD = model(features_BTM)
    instruments_BI, styles_BY, voice_B = model.tell(embedding_BD.float())
    return (
        INSTRUMENTS_WEIGHT * functional.binary_cross_entropy_with_logits(instruments_BI, there_BI)
        + functional.cross_entropy(styles_BY, style_B)
        + functional.binary_cross_entropy_with_logits(voice_B, sings_B)
    )
