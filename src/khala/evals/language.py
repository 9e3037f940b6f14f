"""``khala eval backbone``: is it better than counting, and does it listen to the lyrics?

Costs are in nats per token, over the codes of the token's own level: the choice that is sampled.
Shape letters, this file only: S stream positions, T frames, Q levels, V codes of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from khala import checkpoint
from khala.backbone import Backbone
from khala.codec import Codec
from khala.corpus import HELD_OUT, CodesDataset, CodesExample, open_codes
from khala.errors import CorpusError, RequestError
from khala.evals import report
from khala.evals.ngrams import Bigram, Unigram
from khala.evals.prompts import request_of
from khala.tokens import COARSE_LEVELS, TextTokenizer, build_prompt, interleave

AIM_NATS = 0.5
SIGNIFICANT = 3.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneEval:
    """Arguments of ``khala eval backbone``."""

    model: Path
    """Model folder with backbone/ and tokenizer.json."""

    codes: Path
    """Folder written by ``khala prepare`` with the model's codec."""

    out: Path | None = None
    """Folder for backbone.json."""

    songs: int = 48
    """Songs scored per held-out split."""

    device: str = "cpu"
    """Where the model runs."""


def run_backbone_eval(
    model: Path,
    codes: Path,
    out: Path | None = None,
    songs: int = 48,
    device: str = "cpu",
    on_message: report.OnMessage = report.ignore_messages,
) -> dict[str, Any]:
    """Score held-out songs against unigram and bigram, and right against other songs' lyrics.

    Raises:
        CorpusError: no train or no held-out song in the folder of codes.
        CheckpointError: the model cannot be read.
    """
    arguments = dict(locals())
    arguments.pop("on_message")
    backbone = Backbone.from_pretrained(model).to(device).eval()
    tokenizer = load_tokenizer(model)
    dataset = open_codes(codes)
    check_codec(model, dataset)
    train = dataset.split("train")
    if not train:
        raise CorpusError(f"{codes} has no train song: nothing to count bigrams on")
    peers = CountingPeers.fit(train, size=backbone.config.layout.codebook_size)
    by_split: dict[str, dict[str, Any]] = {}
    for split in HELD_OUT:
        chosen = dataset.split(split)[:songs]
        if not chosen:
            on_message(f"no song in split {split}: left out")
            continue
        by_split[split] = _score(backbone, tokenizer, chosen, peers, on_message)
        on_message(f"{split}: {by_split[split]['all']['backbone']:.3f} nats per token")
    if not by_split:
        raise CorpusError(f"{codes} has no held-out song")
    result = _summary(by_split)
    result["num_parameters"] = sum(p.numel() for p in backbone.parameters())
    return report.finish("backbone", result, arguments=arguments, out=out)


def check_codec(model: Path, dataset: CodesDataset) -> None:
    """Refuse codes of another codec than the model's, where the model's folder has one.

    Raises:
        CorpusError: the figures would be of two languages.
    """
    folder = checkpoint.resolve_model(model) / "codec"
    if folder.is_dir() and dataset.codec_digest != Codec.from_pretrained(folder).codes_digest():
        raise CorpusError("these codes were made by another codec than the model's: prepare again")


def load_tokenizer(model: Path) -> TextTokenizer:
    """Return the tokenizer of a model folder, or of the folder that a part's folder lies in.

    Raises:
        CheckpointError: there is none.
    """
    folder = checkpoint.resolve_model(model)
    if not (folder / "tokenizer.json").is_file():
        folder = folder.parent
    return TextTokenizer.load(folder / "tokenizer.json")


@dataclass(frozen=True, kw_only=True)
class CountingPeers:
    """Unigram and bigrams of the coarse levels, counted on the train split."""

    unigrams: tuple[Unigram, ...]
    bigrams: tuple[dict[str, Bigram], ...]
    """By level: given the previous token, and given the same level one frame before."""

    @classmethod
    def fit(cls, examples: Sequence[CodesExample], *, size: int) -> CountingPeers:
        """Count every train song."""
        tables = [example.codes_QT[:COARSE_LEVELS].astype(np.int64) for example in examples]
        unigrams, bigrams = [], []
        for level in range(COARSE_LEVELS):
            unigrams.append(Unigram.fit([codes[level] for codes in tables], size=size))
            contexts = [_contexts(codes, level) for codes in tables]
            bigrams.append(
                {
                    name: Bigram.fit([one[name] for one in contexts], size=size)
                    for name in contexts[0]
                }
            )
        return cls(unigrams=tuple(unigrams), bigrams=tuple(bigrams))

    def nats(self, codes_QT: npt.NDArray[np.int64]) -> dict[str, list[Floats]]:
        """Return every peer's cost of every frame, by level; a first frame has no bigram."""
        costs: dict[str, list[Floats]] = {"unigram": []}
        for level in range(COARSE_LEVELS):
            costs["unigram"].append(self.unigrams[level].nats(codes_QT[level]))
            for name, (contexts, codes) in _contexts(codes_QT, level).items():
                found = self.bigrams[level][name].nats(contexts, codes)
                costs.setdefault(name, []).append(found)
        return costs


def _contexts(
    codes_QT: npt.NDArray[np.int64], level: int
) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Return (context, code) pairs of one level, both kinds."""
    before = (codes_QT[1, :-1], codes_QT[0, 1:]) if level == 0 else (codes_QT[0], codes_QT[1])
    return {
        "bigram, previous token": before,
        "bigram, same level": (codes_QT[level, :-1], codes_QT[level, 1:]),
    }


def _score(
    backbone: Backbone,
    tokenizer: TextTokenizer,
    examples: Sequence[CodesExample],
    peers: CountingPeers,
    on_message: report.OnMessage,
) -> dict[str, Any]:
    """Score one split: costs of model and peers, and the gap to shuffled lyrics song by song."""
    ours: list[list[Floats]] = [[] for _ in range(COARSE_LEVELS)]
    theirs: dict[str, list[list[Floats]]] = {}
    gaps: list[list[float]] = []
    others = other_lyrics(examples)
    num_skipped = 0
    for index, example in enumerate(examples):
        try:
            right = token_nats(backbone, tokenizer, example)
            wrong = token_nats(backbone, tokenizer, example, others[index])
        except RequestError as error:
            on_message(f"song {example.id} left out: {error}")
            num_skipped += 1
            continue
        num_frames = min(right.shape[1], wrong.shape[1])
        for level in range(COARSE_LEVELS):
            ours[level].append(right[level])
        codes_QT = example.codes_QT[:COARSE_LEVELS, : right.shape[1]].astype(np.int64)
        for name, costs in peers.nats(codes_QT).items():
            rows = theirs.setdefault(name, [[] for _ in range(COARSE_LEVELS)])
            for level, found in enumerate(costs):
                rows[level].append(found)
        if others[index] is not None:
            gap = wrong[:, :num_frames].mean(axis=1) - right[:, :num_frames].mean(axis=1)
            gaps.append([*gap.tolist(), float(gap.mean())])
    if not ours[0]:
        raise CorpusError("no held-out song fits this model")
    return _levels(ours, theirs, gaps, num_skipped)


def _levels(
    ours: list[list[Floats]],
    theirs: dict[str, list[list[Floats]]],
    gaps: list[list[float]],
    num_skipped: int,
) -> dict[str, Any]:
    """Average over tokens; a gap's standard error is that of its mean over songs."""
    found: dict[str, Any] = {"num_songs": len(ours[0]), "num_skipped": num_skipped}
    for level in range(COARSE_LEVELS):
        nats = {"backbone": float(np.concatenate(ours[level]).mean())}
        for name, rows in theirs.items():
            nats[name] = float(np.concatenate(rows[level]).mean())
        found[f"level {level}"] = nats
    names = list(found["level 0"])
    found["all"] = {
        name: float(np.mean([found[f"level {level}"][name] for level in range(COARSE_LEVELS)]))
        for name in names
    }
    if len(gaps) >= 2:
        values = np.array(gaps)
        for column, name in enumerate(("level 0", "level 1", "all")):
            gap = values[:, column]
            error = float(gap.std(ddof=1)) / len(gap) ** 0.5
            found[name]["lyrics_gap"] = float(gap.mean())
            found[name]["lyrics_gap_standard_error"] = error
            found[name]["songs_better_with_their_lyrics"] = float((gap > 0).mean())
        found["num_songs_with_lyrics"] = len(gaps)
    return found


@torch.inference_mode()
def token_nats(
    backbone: Backbone, tokenizer: TextTokenizer, example: CodesExample, lyrics: str | None = None
) -> Floats:
    """Return the cost of every coarse code of a song, [levels, T], from its start.

    A song that is longer than the model's positions is scored as far as they go.

    Args:
        lyrics: words to prompt with instead of the song's own.

    Raises:
        RequestError: the prompt alone does not fit the model.
    """
    layout = backbone.config.layout
    request = request_of(example, lyrics=lyrics)
    limit = backbone.config.max_positions - 2 * COARSE_LEVELS
    prompt = build_prompt(request, layout, tokenizer, max_tokens=limit)
    most = (backbone.config.max_positions - len(prompt)) // COARSE_LEVELS
    codes_2T = torch.from_numpy(example.codes_QT[:COARSE_LEVELS, :most].astype(np.int64))
    logits_2TK = coarse_logits(backbone, prompt, codes_2T)
    costs_2T = functional.cross_entropy(
        logits_2TK.transpose(1, 2), codes_2T.to(logits_2TK.device), reduction="none"
    )
    return costs_2T.double().cpu().numpy()


@torch.inference_mode()
def coarse_logits(backbone: Backbone, prompt: Sequence[int], codes_2T: Tensor) -> Tensor:
    """Return logits_2TK in float32 of every coarse code of a song, given all before it."""
    layout, device = backbone.config.layout, backbone.lm_head.weight.device
    stream_BS = interleave(codes_2T[None], layout)
    tokens_BS = torch.cat([torch.tensor([list(prompt)]), stream_BS], dim=1).to(device)
    hidden_SD = backbone.hidden(tokens_BS)[0, len(prompt) - 1 : -1]
    return torch.stack(
        [
            backbone.window_logits(hidden_SD[level::COARSE_LEVELS], *layout.window(level))
            for level in range(COARSE_LEVELS)
        ]
    )


def other_lyrics(examples: Sequence[CodesExample]) -> list[str | None]:
    """Give every song the lyrics of the sung song nearest in length: only the words are wrong.

    None where there is nothing to exchange.
    """
    others: list[str | None] = [None] * len(examples)
    sung = [index for index, example in enumerate(examples) if not example.instrumental]
    sung.sort(key=lambda index: (len(examples[index].lyrics), index))
    for place, index in enumerate(sung):
        different = [
            other
            for other in (*sung[place + 1 :], *reversed(sung[:place]))
            if examples[other].lyrics != examples[index].lyrics
        ]
        if different:
            others[index] = examples[different[0]].lyrics
    return others


def _summary(by_split: dict[str, dict[str, Any]]) -> dict[str, Any]:
    names = list(next(iter(by_split.values()))["level 0"])
    peers = [name for name in names if name.startswith(("unigram", "bigram"))]
    rows: list[list[report.Cell]] = []
    checks: list[list[report.Cell]] = []
    for split, found in by_split.items():
        for level in ("level 0", "level 1", "all"):
            one = found[level]
            rows.append(
                [
                    f"{split}, {level}",
                    one["backbone"],
                    *(one[name] for name in peers),
                    one.get("lyrics_gap"),
                    one.get("lyrics_gap_standard_error"),
                ]
            )
        best = [
            min(found[f"level {level}"][name] for name in peers) for level in range(COARSE_LEVELS)
        ]
        margin = float(np.mean(best)) - found["all"]["backbone"]
        checks.append(
            [
                f"{split}: below the best bigram of each level (aim {AIM_NATS} nats)",
                margin,
                margin > 0,
            ]
        )
        gap, error = (found["all"].get(f"lyrics_gap{end}") for end in ("", "_standard_error"))
        if gap is not None and error is not None:
            ratio = gap / max(error, 1e-12)
            checks.append(
                [f"{split}: lyrics matter (gap in standard errors)", ratio, ratio > SIGNIFICANT]
            )
    columns = ["nats per token", "backbone", *peers, "shuffled - right lyrics", "s.e."]
    return {
        "splits": by_split,
        "checks": checks,
        "tables": [
            report.table("Backbone on held-out songs", columns, rows),
            report.table("What part F asks for", ["claim", "measured", "holds"], checks),
        ],
    }
