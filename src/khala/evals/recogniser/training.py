"""How the recogniser learns: songs of the train split, with the times of their phonemes.

Framewise cross-entropy shows it quickly where each phoneme is, CTC
(https://dl.acm.org/doi/10.1145/1143844.1143891) makes it count them right: their sum is what is
minimised. Masked bands, masked moments, gain and noise keep it from memorising a small corpus.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from khala.corpus import Corpus, CorpusSong
from khala.errors import ConfigError, CorpusError
from khala.evals.distances import Wave
from khala.evals.learning import band_statistics, disturb, optimise
from khala.evals.recogniser.lyrics import collect_words
from khala.evals.recogniser.model import BLANK, STEP_S, Recogniser, RecogniserConfig, features
from khala.evals.report import OnMessage


@dataclass(frozen=True, kw_only=True, slots=True)
class RecogniserTraining:
    """How long and on how much the recogniser is trained."""

    minutes: float
    """Wall clock of the training loop; the schedule is spread over it."""

    max_hours: float = 4.0
    """Audio kept in memory as features: 50 MB an hour; the first songs of the split are taken."""

    stem_share: float = 0.2
    """Share of the crops that are the voice alone, where the corpus has stems."""

    batch: int = 16
    """Crops in a step."""

    crop_s: float = 8.0
    """Length of a crop."""

    peak_rate: float = 2e-3
    """Learning rate after the warm-up, falling to zero as a cosine."""

    ctc_share: float = 0.3
    """Weight of CTC; the rest is framewise cross-entropy."""

    max_steps: int = 1_000_000
    """An end by steps, for tests."""

    seed: int = 0
    """Of the initial weights, crops and masks."""

    def __post_init__(self) -> None:
        if not self.minutes > 0 or self.batch < 1 or self.crop_s < 1 or self.max_steps < 1:
            raise ConfigError(f"a training needs time, steps, crops and a batch: {self}")
        if not (0.0 <= self.ctc_share <= 1.0 and 0.0 <= self.stem_share < 1.0):
            raise ConfigError(f"ctc_share must lie in [0, 1], stem_share in [0, 1): {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One song in memory: its features and where its phonemes are."""

    features_TM: npt.NDArray[np.float16]
    ids: npt.NDArray[np.int64]
    starts_s: npt.NDArray[np.float64]
    ends_s: npt.NDArray[np.float64]


def train_recogniser(
    corpus: Corpus, training: RecogniserTraining, *, on_message: OnMessage
) -> Recogniser:
    """Train on the corpus's train split and return the recogniser with its dictionary.

    Raises:
        CorpusError: the train split has no song with words.
    """
    songs = _first_hours(corpus.split("train"), training.max_hours)
    if not any(not song.instrumental for song in songs):
        raise CorpusError(f"{corpus.folder} has no song with words in its train split yet")
    names = sorted({p["phoneme"] for song in songs for p in song.truth()["phonemes"]})
    torch.manual_seed(training.seed)
    model = Recogniser(RecogniserConfig(phonemes=tuple(names)))
    model.words = collect_words(corpus.songs)
    started = time.monotonic()
    mixes = [load_example(corpus, song, model.config) for song in songs]
    with_stems = [song for song in songs if "vocals" in song.audio and training.stem_share > 0]
    stems = [load_example(corpus, song, model.config, "vocals") for song in with_stems]
    hours = sum(song.duration_s for song in songs) / 3600
    on_message(
        f"features of {len(songs)} songs, {hours:.2f} h, in {time.monotonic() - started:.0f} s; "
        f"{len(names)} phonemes, {len(model.words)} words"
    )
    mean_M, deviation_M = band_statistics([example.features_TM for example in mixes])
    model.mean_M.copy_(mean_M)
    model.deviation_M.copy_(deviation_M)
    generator = np.random.default_rng(training.seed)
    optimise(
        model,
        lambda: _loss(model, _batch(mixes, stems, training, generator), training),
        minutes=training.minutes,
        max_steps=training.max_steps,
        peak_rate=training.peak_rate,
        on_message=on_message,
    )
    return model.eval()


def load_example(
    corpus: Corpus, song: CorpusSong, config: RecogniserConfig, stem: str = "mix"
) -> Example:
    """Read one song's sound and truth; a phoneme the model does not know is an error."""
    known = {name: index for index, name in enumerate(config.phonemes, start=1)}
    phonemes = song.truth()["phonemes"]
    return Example(
        features_TM=features(corpus.read(song, stem), num_mels=config.num_mels).astype(np.float16),
        ids=np.array([known[p["phoneme"]] for p in phonemes], dtype=np.int64),
        starts_s=np.array([p["start_s"] for p in phonemes], dtype=np.float64),
        ends_s=np.array([p["end_s"] for p in phonemes], dtype=np.float64),
    )


def crop(example: Example, start_step: int, num_steps: int) -> tuple[Wave, Tensor, Tensor]:
    """Return features [2S, M], the class of every step [S], and the phonemes in order."""
    first = 2 * start_step
    features_TM = example.features_TM[first : first + 2 * num_steps].astype(np.float32)
    missing = 2 * num_steps - len(features_TM)
    if missing:
        features_TM = np.pad(features_TM, ((0, missing), (0, 0)), mode="edge")
    times_S = (start_step + np.arange(num_steps) + 0.5) * STEP_S
    place_S = np.searchsorted(example.starts_s, times_S, side="right") - 1
    steps_S = np.full(num_steps, BLANK, dtype=np.int64)
    if example.ids.size:
        sung_S = (place_S >= 0) & (times_S < example.ends_s[place_S.clip(0)])
        steps_S[sung_S] = example.ids[place_S[sung_S]]
    middles_s = (example.starts_s + example.ends_s) / 2
    end_s = (start_step + num_steps) * STEP_S
    inside = (middles_s >= start_step * STEP_S) & (middles_s < end_s)
    return features_TM, torch.from_numpy(steps_S), torch.from_numpy(example.ids[inside])


def _first_hours(songs: Sequence[CorpusSong], max_hours: float) -> list[CorpusSong]:
    taken: list[CorpusSong] = []
    total_s = 0.0
    for song in songs:
        if total_s >= max_hours * 3600:
            break
        taken.append(song)
        total_s += song.duration_s
    return taken


def _batch(
    mixes: Sequence[Example],
    stems: Sequence[Example],
    training: RecogniserTraining,
    generator: np.random.Generator,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    num_steps = round(training.crop_s / STEP_S)
    num_stems = int(generator.binomial(training.batch, training.stem_share)) if stems else 0
    crops = []
    for examples, num_crops in ((mixes, training.batch - num_stems), (stems, num_stems)):
        if not num_crops:
            continue
        lengths = np.array([len(one.features_TM) for one in examples], dtype=np.float64)
        chosen = generator.choice(len(examples), num_crops, p=lengths / lengths.sum())
        for index in chosen.tolist():
            spare = max(1, len(examples[index].features_TM) // 2 - num_steps)
            crops.append(crop(examples[index], int(generator.integers(spare)), num_steps))
    disturbed = [disturb(features_TM, generator) for features_TM, _, _ in crops]
    return (
        torch.from_numpy(np.stack(disturbed)),
        torch.stack([steps_S for _, steps_S, _ in crops]),
        [ids for _, _, ids in crops],
    )


def _loss(
    model: Recogniser, batch: tuple[Tensor, Tensor, list[Tensor]], training: RecogniserTraining
) -> Tensor:
    features_BTM, steps_BS, ids = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores_BSP = model(features_BTM)
    framewise = functional.nll_loss(scores_BSP.flatten(0, 1), steps_BS.flatten())
    lengths = torch.tensor([len(one) for one in ids])
    ctc = functional.ctc_loss(
        scores_BSP.transpose(0, 1),
        torch.cat(ids),
        torch.full((len(ids),), scores_BSP.shape[1]),
        lengths,
        blank=BLANK,
        reduction="sum",
        zero_infinity=True,
    ) / max(1, int(lengths.sum()))
    return (1 - training.ctc_share) * framewise + training.ctc_share * ctc
