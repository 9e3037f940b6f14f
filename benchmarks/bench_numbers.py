"""What narrower numbers cost in quality, on the true codes of held-out songs: both language models
in bfloat16, and super-resolution with products in bfloat16 alone ("mixed"), against float32.

    python benchmarks/bench_numbers.py --codes codes --model nano

Kullback-Leibler divergence of the next code's distribution, in nats; the share of places where the
best candidate is the same; and how far songs completed with the same seed are from the original's
codes decoded, in mel distance: a pair of arms that differ by less than seeds do differ by nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from khala import Backbone, Codec, SuperResolution
from khala.backbone import generate_coarse
from khala.backbone.steps import LibrarySteps, Steps, has_compiled_steps, steps_of
from khala.corpus import CodesExample, open_codes
from khala.evals import report
from khala.evals.completion import held_out_in_turn
from khala.evals.distances import mel_distance
from khala.evals.language import coarse_logits, load_tokenizer
from khala.evals.prompts import request_of
from khala.evals.tables import with_interval
from khala.nn.inference import InferenceTrunk
from khala.superres import Sketch, complete_songs
from khala.tokens import build_prompt, interleave

LEVELS = (2, 8, 20, 40, 63)
SECONDS = 15.0


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--codes", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--songs", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    console = Console(width=150)
    from khala.checkpoint import resolve_model

    folder = resolve_model(args.model)
    codec = Codec.from_pretrained(folder)
    num_frames = round(SECONDS * float(codec.config.frame_rate_hz))
    songs = held_out_in_turn(open_codes(args.codes), args.songs)
    tokenizer = load_tokenizer(folder)
    models = {
        dtype: (
            Backbone.from_pretrained(folder, dtype=dtype),
            SuperResolution.from_pretrained(folder, dtype=dtype),
        )
        for dtype in (torch.float32, torch.bfloat16)
    }
    exact, narrow = models[torch.float32], models[torch.bfloat16]
    found: dict[str, list[tuple[float, float]]] = {}
    mels: dict[str, list[float]] = {}
    same: list[int | None] = []
    for place, song in enumerate(songs):
        layout = exact[0].config.layout
        prompt = build_prompt(request_of(song), layout, tokenizer, max_tokens=2048)
        codes_QT = torch.from_numpy(song.codes_QT[:, :num_frames].astype(np.int64))
        pairs = [coarse_logits(one[0], prompt, codes_QT[:2]) for one in (exact, narrow)]
        found.setdefault("backbone, bfloat16", []).append(compared(*pairs))
        for name, steps in steps_in_8_bits(exact[0]).items():
            stepped = step_logits(exact[0], steps, prompt, codes_QT[:2])
            found.setdefault(f"backbone, {name}", []).append(compared(pairs[0], stepped))
        for level in LEVELS:
            wanted = level_logits(exact[1], None, prompt, codes_QT, level)
            arms = {"mixed": (exact[1], torch.bfloat16), "bfloat16": (narrow[1], None)}
            for name, (model, products) in arms.items():
                made = level_logits(model, products, prompt, codes_QT, level)
                key = f"super-resolution, {name}"
                found.setdefault(key, []).append(compared(wanted, made))
        sketches = {
            name: written(exact[0], prompt, place, is_narrow)
            for name, is_narrow in (("float32", False), ("int8", True))
        }
        same.append(first_difference(*sketches.values()))
        true_CN = codec.decode(codes_QT[None])[0].numpy()
        sketch = Sketch(prompt_S=torch.tensor(prompt), codes_QT=codes_QT[:2], seed=place)
        other = Sketch(prompt_S=torch.tensor(prompt), codes_QT=codes_QT[:2], seed=1000 + place)
        drawn = {
            "float32": (exact[1], None, sketch),
            "float32, another seed": (exact[1], None, other),
            "mixed": (exact[1], torch.bfloat16, sketch),
            "bfloat16": (narrow[1], None, sketch),
        }
        for name, (model, products, one) in drawn.items():
            (completed,) = complete_songs(model, [one], autocast=products)
            wave_CN = codec.decode(completed[None])[0].numpy()
            mels.setdefault(name, []).append(mel_distance(true_CN, wave_CN))
        console.print(f"song {place + 1} of {len(songs)}: {song.id}")
    result = summary(found, mels, args, songs)
    num_same = sum(frame is None for frame in same)
    result["first_different_frames"] = same
    result["notes"] = [
        f"sketches of {SECONDS:.0f} s written in float32 and, with the same seed, in int8 (compiled"
        f" where that can be had): {num_same} of {len(same)} the same to the last frame"
    ]
    report.print_result(console, result)
    report.write_result(args.out / "numbers.json", result)
    return 0


def steps_in_8_bits(backbone: Backbone) -> dict[str, Steps]:
    """Return the ways to read single tokens with matrices in 8 bits."""
    ways: dict[str, Steps] = {"int8": LibrarySteps(backbone, has_int8_steps=True)}
    if has_compiled_steps(backbone):
        ways["int8 compiled"] = steps_of(backbone, has_int8_steps=True)
    return ways


@torch.inference_mode()
def step_logits(backbone: Backbone, steps: Steps, prompt: list[int], codes_2T: Tensor) -> Tensor:
    """Return what `coarse_logits` does, read token by token."""
    layout = backbone.config.layout
    tokens_S = interleave(codes_2T[None], layout)[0]
    cache, read = (
        steps.new_cache(1, len(prompt) + len(tokens_S)),
        backbone.new_cache(1, len(prompt)),
    )
    rows = [backbone.hidden(torch.tensor([prompt]), cache=read)[0, -1:]]
    cache.take(0, read)
    rows += [steps.step(backbone.embed(token[None]), [cache]) for token in tokens_S[:-1]]
    hidden_SD = torch.cat(rows)
    levels = range(len(codes_2T))
    return torch.stack(
        [backbone.window_logits(hidden_SD[k :: len(levels)], *layout.window(k)) for k in levels]
    )


def written(backbone: Backbone, prompt: list[int], seed: int, is_narrow: bool) -> Tensor:
    """Return codes_2T of a sketch."""
    num_frames = round(SECONDS * 44_100 / 2_048)
    codes_2T, _ = generate_coarse(
        backbone, prompt, num_frames_min=num_frames, num_frames_max=num_frames, temperature=1.0,
        top_k=80, seed=seed, has_int8_steps=is_narrow,
    )  # fmt: skip
    return codes_2T


def first_difference(one_2T: Tensor, other_2T: Tensor) -> int | None:
    """Return the first frame that is not the same, None if all are."""
    different = (one_2T != other_2T).any(dim=0).nonzero()
    return int(different[0]) if len(different) else None


@torch.inference_mode()
def level_logits(
    model: SuperResolution,
    products: torch.dtype | None,
    prompt: list[int],
    codes_QT: Tensor,
    level: int,
) -> Tensor:
    """Return a level's logits_TV from the true lower levels."""
    marked_S = torch.tensor(prompt)
    marked_S[-1] = model.config.layout.marker_id(level)
    frames_TD = model.embed_levels(codes_QT[None], level)[0]
    stream_SD = torch.cat((model.embed(marked_S), frames_TD.to(model.embed.weight.dtype)))
    hidden_SD = InferenceTrunk(model, products).whole(stream_SD, [len(stream_SD)])
    return model.level_logits(hidden_SD[len(prompt) :], level)


def compared(wanted: Tensor, made: Tensor) -> tuple[float, float]:
    """Return the mean divergence in nats, and how often the best candidate is the same."""
    wanted, made = (x.reshape(-1, x.shape[-1]).float() for x in (wanted, made))
    ours, theirs = made.log_softmax(-1), wanted.log_softmax(-1)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    same = (wanted.argmax(-1) == made.argmax(-1)).float().mean()
    return float(divergence), float(same)


def summary(
    found: dict[str, list[tuple[float, float]]],
    mels: dict[str, list[float]],
    args: argparse.Namespace,
    songs: list[CodesExample],
) -> dict[str, Any]:
    """Return the result with its tables."""
    rows: list[list[report.Cell]] = [
        [
            name,
            1e3 * float(np.mean([pair[0] for pair in pairs])),
            float(np.mean([pair[1] for pair in pairs])),
        ]
        for name, pairs in found.items()
    ]
    first = mels["float32"]
    lines: list[list[report.Cell]] = []
    for name, values in mels.items():
        apart = [value - base for value, base in zip(values, first, strict=True)]
        lines.append([name, float(np.mean(values)),
                      None if name == "float32" else with_interval(apart, digits=4)])  # fmt: skip
    tables = [
        report.table(
            "Against float32, true codes",
            ["", "KL, thousandths of a nat", "best candidate the same"],
            rows,
        ),
        report.table(
            "Songs completed from their true coarse codes, mel80 to all true codes",
            ["", "mel80", "minus float32"],
            lines,
        ),
    ]
    return report.circumstances("numbers", {}) | {
        "command": f"python benchmarks/bench_numbers.py --model {Path(args.model).name} "
        f"--songs {args.songs}",
        "songs": [song.id for song in songs],
        "mel80": mels,
        "tables": tables,
    }


if __name__ == "__main__":
    raise SystemExit(main())
