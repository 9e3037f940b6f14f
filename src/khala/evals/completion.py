"""``khala eval superres``: what the fine levels are worth, given true coarse codes.

Shape letters, this file only: Q levels, T frames, K codes of a level, C channels, N samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from khala.codec import Codec
from khala.corpus import CodesDataset, CodesExample, Corpus, open_codes, open_corpus
from khala.errors import CorpusError
from khala.evals import report
from khala.evals.distances import Wave, mel_distance, multi_stft_distance
from khala.evals.language import HELD_OUT, check_codec, load_tokenizer
from khala.evals.ngrams import Unigram, divergence_bits
from khala.evals.prompts import request_of
from khala.superres import Packing, SuperResolution
from khala.tokens import build_prompt

COARSE_LEVELS = 2
NUM_GROUPS = 32
"""Codes are pooled into this many groups, or joint histograms would be empty."""

Codes = npt.NDArray[np.int64]


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

    top_k: int | None = None
    """Codes kept by super-resolution's sampling; None: the model's own number."""

    device: str = "cpu"
    """Where the model runs."""


@dataclass(frozen=True, kw_only=True)
class Ways:
    """One song's codes, true and filled in by each way of filling them in."""

    example: CodesExample
    codes: dict[str, Codes]
    nats_Q: npt.NDArray[np.float64]
    """Cost of the true codes under the model, mean of each level; NaN for the coarse ones."""


def run_superres_eval(
    model: Path,
    codes: Path,
    corpus: Path | None = None,
    out: Path | None = None,
    songs: int = 12,
    seconds: float = 20.0,
    top_k: int | None = None,
    device: str = "cpu",
    on_message: report.OnMessage = report.ignore_messages,
) -> dict[str, Any]:
    """Complete held-out songs from their true coarse codes and compare with the naive ways.

    Raises:
        CorpusError: no train or no held-out song, or one that is missing from the corpus.
        CheckpointError: the model cannot be read.
    """
    arguments = dict(locals())
    arguments.pop("on_message")
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
    for index, example in enumerate(chosen):
        layout = superres.config.layout
        limit = superres.config.max_positions - 1
        prompt = build_prompt(request_of(example), layout, tokenizer, max_tokens=limit)
        num_frames = min(most, superres.config.max_positions - len(prompt))
        true_QT = example.codes_QT[: layout.num_levels, :num_frames].astype(np.int64)
        ways = _fill(superres, example, prompt, true_QT, unigrams, top_k=top_k, seed=index)
        filled.append(ways)
        for name, pair in _distances(codec, ways, opened).items():
            distances[name].append(pair)
        on_message(f"song {index + 1} of {len(chosen)}: {example.id}")
    result = _summary(codec, filled, distances, unigrams)
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
        nats_Q=level_nats(superres, prompt, true_QT),
    )


@torch.inference_mode()
def level_nats(
    superres: SuperResolution, prompt: list[int], true_QT: Codes
) -> npt.NDArray[np.float64]:
    """Return the mean cost of each fine level given the true levels below it; coarse ones NaN."""
    device = superres.lm_head.weight.device
    num_levels, num_frames = true_QT.shape
    prompt_BP = torch.tensor([prompt], device=device)
    codes_BQT = torch.from_numpy(true_QT)[None].to(device)
    packing = Packing.full(1, len(prompt), num_frames, device)
    costs = np.full(num_levels, np.nan)
    for level in range(COARSE_LEVELS, num_levels):
        frames_BTD = superres.embed_levels(codes_BQT, level)
        hidden_BSD = superres.level_hidden(prompt_BP, frames_BTD, [level], packing=packing)
        logits_TV = superres.level_logits(packing.frames_of(hidden_BSD), level)[0]
        costs[level] = float(functional.cross_entropy(logits_TV, codes_BQT[0, level]))
    return costs


def _distances(codec: Codec, ways: Ways, corpus: Corpus | None) -> dict[str, tuple[float, float]]:
    """Return (mel80, multi-resolution STFT) of every way to the original or the true codes."""
    waves = {name: _decode(codec, codes_QT) for name, codes_QT in ways.codes.items()}
    if corpus is None:
        reference_CN = waves.pop("true codes")
    else:
        found = [song for song in corpus.songs if song.id == ways.example.id]
        if not found:
            raise CorpusError(f"song {ways.example.id} is not in {corpus.folder}")
        num_samples = waves["true codes"].shape[1]
        whole_CN = corpus.read(found[0])[:, :num_samples]
        reference_CN = np.pad(whole_CN, ((0, 0), (0, num_samples - whole_CN.shape[1])))
    return {
        name: (mel_distance(reference_CN, wave_CN), multi_stft_distance(reference_CN, wave_CN))
        for name, wave_CN in waves.items()
    }


def _decode(codec: Codec, codes_QT: Codes) -> Wave:
    device = codec.quantizer.codebooks.device
    wave_BCN: Tensor = codec.decode(torch.from_numpy(codes_QT)[None].to(device))
    return wave_BCN[0].cpu().numpy()


def joint_divergence_bits(
    groups_QK: npt.NDArray[np.int64], one: Sequence[Codes], other: Sequence[Codes], level: int
) -> float:
    """Return how differently two sets of songs place a level's codes in their surroundings.

    Mean Jensen-Shannon divergence of three joint histograms: with the level below, with level 0,
    and with the same level one frame later. A histogram of single codes would not do: drawing
    codes independently from the unigram matches that one perfectly.
    """
    found = []
    for below, shift in ((level - 1, 0), (0, 0), (level, 1)):
        histograms = []
        for songs in (one, other):
            cells = np.concatenate(
                [
                    groups_QK[below][codes[below, shift:]] * NUM_GROUPS
                    + groups_QK[level][codes[level, : codes.shape[1] - shift]]
                    for codes in songs
                ]
            )
            histograms.append(np.bincount(cells, minlength=NUM_GROUPS**2))
        found.append(divergence_bits(*histograms))
    return float(np.mean(found))


def group_codes(codec: Codec) -> npt.NDArray[np.int64]:
    """Return each level's codes pooled into `NUM_GROUPS` groups of alike vectors (k-means)."""
    groups = []
    for codebook_KW in codec.quantizer.codebooks.float().cpu():
        spread = torch.linspace(0, len(codebook_KW) - 1, NUM_GROUPS).long()
        centres = codebook_KW[codebook_KW[:, 0].argsort()[spread]]
        for _ in range(12):
            nearest_K = torch.cdist(codebook_KW, centres).argmin(dim=1)
            for index in range(NUM_GROUPS):
                members = codebook_KW[nearest_K == index]
                if len(members):
                    centres[index] = members.mean(dim=0)
        groups.append(nearest_K.numpy())
    return np.stack(groups)


def _summary(
    codec: Codec,
    filled: Sequence[Ways],
    distances: dict[str, list[tuple[float, float]]],
    unigrams: Sequence[Unigram],
) -> dict[str, Any]:
    levels = _level_rows(codec, filled, unigrams)
    rows: list[list[report.Cell]] = []
    ours = np.array(distances["super-resolution"])
    for name, pairs in distances.items():
        gap = np.array(pairs)[:, 0] - ours[:, 0]
        error = float(gap.std(ddof=min(1, gap.size - 1))) / gap.size**0.5
        means = np.array(pairs).mean(axis=0)
        rows.append([name, float(means[0]), float(means[1]), float(gap.mean()), error])
    mel80 = {str(row[0]): row[3] for row in rows}
    closer = [row["divergence"] < row["divergence_unigram"] for row in levels]
    cheaper = [row["nats"] < row["unigram_nats"] for row in levels]
    checks: list[list[report.Cell]] = [
        [f"mel80 below that of '{name}' (difference)", mel80[name], float(str(mel80[name])) > 0]
        for name in ("coarse levels alone", "most frequent codes")
    ]
    checks.append(["levels closer to the data than unigram sampling", sum(closer), all(closer)])
    checks.append(["levels cheaper than the unigram", sum(cheaper), all(cheaper)])
    shown = [row for row in levels if row["level"] < 8 or row["level"] % 8 == 7]
    keys = list(levels[0])
    return {
        "num_songs": len(filled),
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
            "divergence: bits between joint histograms of 32 groups of codes; "
            "divergence_halves: of one half of the true songs from the other, what counting noise"
            " alone gives"
        ],
    }


def _level_rows(
    codec: Codec, filled: Sequence[Ways], unigrams: Sequence[Unigram]
) -> list[dict[str, float]]:
    groups_QK = group_codes(codec)
    true = [ways.codes["true codes"] for ways in filled]
    made = [ways.codes["super-resolution"] for ways in filled]
    drawn = [ways.codes["unigram sampling"] for ways in filled]
    weights = np.array([codes.shape[1] for codes in true], dtype=np.float64)
    rows = []
    for level in range(COARSE_LEVELS, true[0].shape[0]):
        nats = np.average([ways.nats_Q[level] for ways in filled], weights=weights)
        counted = np.concatenate([unigrams[level].nats(codes[level]) for codes in true]).mean()
        rows.append(
            {
                "level": float(level),
                "nats": float(nats),
                "unigram_nats": float(counted),
                "divergence": joint_divergence_bits(groups_QK, true, made, level),
                "divergence_unigram": joint_divergence_bits(groups_QK, true, drawn, level),
                "divergence_halves": joint_divergence_bits(groups_QK, true[::2], true[1::2], level)
                if len(true) > 1
                else float("nan"),
            }
        )
    return rows
