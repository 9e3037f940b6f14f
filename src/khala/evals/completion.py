"""``khala eval superres``: what the fine levels are worth, given true coarse codes.

Shape letters, this file only: Q levels, T frames, K codes of a level, D latents, C channels,
N samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from khala.codec import Codec
from khala.corpus import (
    HELD_OUT,
    CodesDataset,
    CodesExample,
    Corpus,
    CorpusSong,
    open_codes,
    open_corpus,
)
from khala.errors import ConfigError, CorpusError
from khala.evals import report
from khala.evals.distances import Wave, mel_distance, multi_stft_distance
from khala.evals.fine_levels import Codes, LevelScores, score_levels
from khala.evals.language import check_codec, load_tokenizer
from khala.evals.ngrams import Unigram
from khala.evals.prompts import request_of
from khala.evals.recogniser import (
    Recogniser,
    edit_distance,
    error_rate,
    sung_phonemes,
)
from khala.superres import SuperResolution
from khala.tokens import COARSE_LEVELS, build_prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperResEval:
    """Arguments of ``khala eval superres``."""

    model: Path
    """Model folder with codec/, superres/ and tokenizer.json."""

    codes: Path
    """Folder written by ``khala prepare`` with the model's codec."""

    corpus: Path | None = None
    """The songs themselves: distances are then to the original and not to its 64 levels."""

    out: Path | None = None
    """Folder for superres.json."""

    songs: int = 12
    """Held-out songs, in turn from every split."""

    seconds: float = 20.0
    """Taken from the start of each song."""

    recogniser: Path | None = None
    """Folder of a trained recogniser: adds phoneme error rates; needs --corpus."""

    top_k: int | None = None
    """Codes kept by super-resolution's sampling; None: the model's own number."""

    device: str = "cpu"
    """Where the model runs."""


@dataclass(frozen=True, kw_only=True)
class Ways:
    """One song's codes, true and filled in by each way of filling them in."""

    example: CodesExample
    codes: dict[str, Codes]
    scores: LevelScores


def run_superres_eval(
    model: Path,
    codes: Path,
    corpus: Path | None = None,
    out: Path | None = None,
    songs: int = 12,
    seconds: float = 20.0,
    recogniser: Path | None = None,
    top_k: int | None = None,
    device: str = "cpu",
    on_message: report.OnMessage = report.ignore_messages,
) -> dict[str, Any]:
    """Complete held-out songs from their true coarse codes and compare with the naive ways.

    Raises:
        CorpusError: no train or no held-out song, or one that is missing from the corpus.
        CheckpointError: the model cannot be read.
        ConfigError: a recogniser without the corpus that says what is sung.
    """
    arguments = dict(locals())
    arguments.pop("on_message")
    if recogniser is not None and corpus is None:
        raise ConfigError("--recogniser needs --corpus: it says what is sung")
    ear = None if recogniser is None else Recogniser.from_pretrained(recogniser)
    codec = Codec.from_pretrained(model, device=device)
    superres = SuperResolution.from_pretrained(model).to(device).eval()
    dataset = open_codes(codes)
    check_codec(model, dataset)
    chosen = held_out_in_turn(dataset, songs)
    unigrams = _unigrams(dataset, superres)
    opened = None if corpus is None else open_corpus(corpus)
    tokenizer = load_tokenizer(model)
    most = max(1, round(seconds * codec.config.sample_rate_hz / codec.config.hop))
    filled: list[Ways] = []
    distances: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    heard, sung = defaultdict[str, list[list[str]]](list), list[list[str]]()
    for index, example in enumerate(chosen):
        layout = superres.config.layout
        limit = superres.config.max_positions - 1
        prompt = build_prompt(request_of(example), layout, tokenizer, max_tokens=limit)
        num_frames = min(most, superres.config.max_positions - len(prompt))
        true_QT = example.codes_QT[: layout.num_levels, :num_frames].astype(np.int64)
        ways = _fill(superres, codec, example, prompt, true_QT, unigrams, top_k=top_k, seed=index)
        filled.append(ways)
        waves = _waves(codec, ways, opened)
        for name, pair in _distances(waves).items():
            distances[name].append(pair)
        if ear is not None and opened is not None:
            seconds_kept = num_frames * codec.config.hop / codec.config.sample_rate_hz
            truth = _song(opened, example.id).truth()
            sung.append(sung_phonemes(truth, start_s=0.0, end_s=seconds_kept))
            for name, wave_CN in waves.items():
                heard[name].append(ear.recognise(wave_CN))
        on_message(f"song {index + 1} of {len(chosen)}: {example.id}")
    result = _summary(filled, distances, unigrams)
    if ear is not None:
        _add_words(result, heard, sung)
    result["reference"] = "original" if opened is not None else "true codes of every level"
    return report.finish("superres", result, arguments=arguments, out=out)


def held_out_in_turn(dataset: CodesDataset, num_songs: int) -> list[CodesExample]:
    """Return held-out songs, one of every split after the other.

    Raises:
        CorpusError: there is none.
    """
    by_split = [dataset.split(split) for split in HELD_OUT]
    longest = max(len(examples) for examples in by_split)
    chosen = [
        examples[place]
        for place in range(longest)
        for examples in by_split
        if place < len(examples)
    ]
    if not chosen:
        raise CorpusError("these codes have no held-out song")
    return chosen[:num_songs]


def _unigrams(dataset: CodesDataset, superres: SuperResolution) -> list[Unigram]:
    train = dataset.split("train")
    if not train:
        raise CorpusError("these codes have no train song: nothing to count codes on")
    layout = superres.config.layout
    return [
        Unigram.fit(
            [example.codes_QT[level].astype(np.int64) for example in train],
            size=layout.codebook_size,
        )
        for level in range(layout.num_levels)
    ]


def _fill(
    superres: SuperResolution,
    codec: Codec,
    example: CodesExample,
    prompt: list[int],
    true_QT: Codes,
    unigrams: Sequence[Unigram],
    *,
    top_k: int | None,
    seed: int,
) -> Ways:
    """Complete one song by the model and by each naive way, and score its true codes."""
    generator = np.random.default_rng(seed)
    coarse_2T = true_QT[:COARSE_LEVELS]
    num_frames = true_QT.shape[1]
    common = [np.full(num_frames, int(one.probabilities_K.argmax())) for one in unigrams]
    drawn = [one.sample(num_frames, generator) for one in unigrams]
    completed_QT = superres.complete(prompt, torch.from_numpy(coarse_2T), top_k=top_k, seed=seed)
    return Ways(
        example=example,
        codes={
            "true codes": true_QT,
            "super-resolution": completed_QT.cpu().numpy(),
            "coarse levels alone": coarse_2T,
            "most frequent codes": np.stack([*coarse_2T, *common[COARSE_LEVELS:]]),
            "unigram sampling": np.stack([*coarse_2T, *drawn[COARSE_LEVELS:]]),
        },
        scores=score_levels(superres, codec, prompt, true_QT, unigrams, top_k=top_k),
    )


def _waves(codec: Codec, ways: Ways, corpus: Corpus | None) -> dict[str, Wave]:
    """Return every way's sound, and what it should sound like: "original", or the true codes."""
    waves = {name: _decode(codec, codes_QT) for name, codes_QT in ways.codes.items()}
    if corpus is None:
        return {"original": waves.pop("true codes"), **waves}
    num_samples = waves["true codes"].shape[1]
    whole_CN = corpus.read(_song(corpus, ways.example.id))[:, :num_samples]
    return {"original": np.pad(whole_CN, ((0, 0), (0, num_samples - whole_CN.shape[1]))), **waves}


def _song(corpus: Corpus, song_id: str) -> CorpusSong:
    """Return a song of the corpus by its name."""
    for song in corpus.songs:
        if song.id == song_id:
            return song
    raise CorpusError(f"song {song_id} is not in {corpus.folder}")


def _distances(waves: Mapping[str, Wave]) -> dict[str, tuple[float, float]]:
    """Return (mel80, multi-resolution STFT) of every way to the original."""
    original_CN = waves["original"]
    return {
        name: (mel_distance(original_CN, wave_CN), multi_stft_distance(original_CN, wave_CN))
        for name, wave_CN in waves.items()
        if name != "original"
    }


def _add_words(
    result: dict[str, Any], heard: Mapping[str, list[list[str]]], sung: list[list[str]]
) -> None:
    """Add phoneme error rates to a result: of every way, and of every song by super-resolution.

    Raises:
        CorpusError: none of these songs says what is sung.
    """
    if not any(sung):
        raise CorpusError("no --recogniser: none of these songs says what is sung")
    found = {name: asdict(error_rate(phonemes, sung)) for name, phonemes in heard.items()}
    result["per"] = found
    columns = ["heard in", "PER", "s.e."]
    rows: list[list[report.Cell]] = [
        [name, one["per"], one["standard_error"]] for name, one in found.items()
    ]
    result["tables"].append(report.table("Where the words are", columns, rows))
    for row, phonemes, wanted in zip(result["songs"], heard["super-resolution"], sung, strict=True):
        row["per"] = edit_distance(phonemes, wanted) / len(wanted) if wanted else None


def _decode(codec: Codec, codes_QT: Codes) -> Wave:
    device = codec.quantizer.codebooks.device
    wave_BCN: Tensor = codec.decode(torch.from_numpy(codes_QT)[None].to(device))
    return wave_BCN[0].cpu().numpy()


def _summary(
    filled: Sequence[Ways],
    distances: dict[str, list[tuple[float, float]]],
    unigrams: Sequence[Unigram],
) -> dict[str, Any]:
    levels = _level_rows(filled, unigrams)
    rows: list[list[report.Cell]] = []
    ours = np.array(distances["super-resolution"])
    for name, pairs in distances.items():
        gap = np.array(pairs)[:, 0] - ours[:, 0]
        error = float(gap.std(ddof=min(1, gap.size - 1))) / gap.size**0.5
        means = np.array(pairs).mean(axis=0)
        rows.append([name, float(means[0]), float(means[1]), float(gap.mean()), error])
    mel80 = {str(row[0]): row[3] for row in rows}
    closer = [row["energy"] < row["energy_unigram"] for row in levels]
    cheaper = [row["nats"] < row["unigram_nats"] for row in levels]
    checks: list[list[report.Cell]] = [
        [f"mel80 below that of '{name}' (difference)", mel80[name], float(str(mel80[name])) > 0]
        for name in ("coarse levels alone", "most frequent codes")
    ]
    checks.append(["levels whose samples are closer than the unigram's", sum(closer), all(closer)])
    checks.append(["levels cheaper than the unigram", sum(cheaper), all(cheaper)])
    shown = [row for row in levels if row["level"] < 8 or row["level"] % 8 == 7]
    keys = list(levels[0])
    return {
        "num_songs": len(filled),
        "songs": [
            {
                "song": ways.example.id,
                "nats": float(np.nanmean(ways.scores.nats_Q)),
                **{f"mel80 of {name}": pairs[place][0] for name, pairs in distances.items()},
            }
            for place, ways in enumerate(filled)
        ],
        "mel80_and_stft": {
            name: np.mean(pairs, axis=0).tolist() for name, pairs in distances.items()
        },
        "levels": levels,
        "checks": checks,
        "tables": [
            report.table(
                "From true coarse codes",
                ["filled by", "mel80", "multi-STFT", "mel80 minus ours", "s.e."],
                rows,
            ),
            report.table(
                "Level by level",
                keys,
                [[int(row["level"]), *list(row.values())[1:]] for row in shown],
            ),
            report.table("What part F asks for", ["claim", "measured", "holds"], checks),
        ],
        "notes": [
            "energy: energy score of the distribution that is sampled, given the true levels "
            "below, in the codes' own space; less is closer to the data"
        ],
    }


def _level_rows(filled: Sequence[Ways], unigrams: Sequence[Unigram]) -> list[dict[str, float]]:
    true = [ways.codes["true codes"] for ways in filled]
    weights = np.array([codes.shape[1] for codes in true], dtype=np.float64)
    rows = []
    for level in range(COARSE_LEVELS, true[0].shape[0]):
        counted = np.concatenate([unigrams[level].nats(codes[level]) for codes in true]).mean()
        nats, energy, unigram = np.average(
            [
                (
                    ways.scores.nats_Q[level],
                    ways.scores.energy_Q[level],
                    ways.scores.energy_unigram_Q[level],
                )
                for ways in filled
            ],
            axis=0,
            weights=weights,
        )
        rows.append(
            {
                "level": float(level),
                "nats": float(nats),
                "unigram_nats": float(counted),
                "energy": float(energy),
                "energy_unigram": float(unigram),
            }
        )
    return rows
