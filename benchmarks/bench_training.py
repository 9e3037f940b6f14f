"""What a training step takes, and what each switch is worth: seconds, share of the machine, memory.

    python benchmarks/bench_training.py --size nano
    python benchmarks/bench_training.py --size full --device cuda

Songs are random codes of the greatest length. Every arm is a process of its own, so that memory is
its own; the arms take turns, so that a machine that slows down slows all. Shown are the fastest
steps.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from khala import recipes
from khala.corpus import CodesDataset, CodesExample, Corpus, CorpusSong, HeldCodes
from khala.errors import ConfigError
from khala.evals import report
from khala.recipes import apply_overrides
from khala.tokens import TextTokenizer
from khala.train.batches import Batches
from khala.train.flops import matrix_ceiling
from khala.train.loop import forward_backward, update
from khala.train.start import resume_or_start
from khala.train.task import Task
from khala.train.tasks.backbone import BackboneTask
from khala.train.tasks.codec import CodecTask
from khala.train.tasks.superres import SuperResTask

LYRICS = "[Verse 1]\n" + "a line of words that are sung\n" * 8
NUM_SONGS = 8
NUM_WARM = 2
LANGUAGE = ("backbone", "superres")

ARMS: dict[str, list[tuple[str, list[str]]]] = {
    "backbone": [
        ("the recipe", []),
        ("float32", ["train.precision=float32"]),
        ("recomputed layers", ["train.recompute=true"]),
        ("kept layers", ["train.recompute=false"]),
        ("softmax over text too", ["task.full_vocabulary=true"]),
        ("AdamW", ["train.optimiser=adamw"]),
        ("Muon", ["train.optimiser=muon"]),
        ("torch.compile", ["train.compile=true"]),
        ("nothing told", ["task.alignment=0", "task.lessons=0"]),
    ],
    "superres": [
        ("the recipe", []),
        ("float32", ["train.precision=float32"]),
        ("recomputed layers", ["train.recompute=true"]),
        ("kept layers", ["train.recompute=false"]),
        ("one level a batch", ["task.mixed_levels=false"]),
        ("torch.compile", ["train.compile=true"]),
    ],
    "codec": [
        ("the recipe", []),
        ("float32", ["train.precision=float32"]),
        ("without an adversary", ["task.adversary=null"]),
    ],
}
"""Switches by model; an arm that changes nothing of a recipe is left out."""

SMALLER = {
    "backbone": ["train.num_parts=1"],
    "superres": ["train.num_parts=1"],
    "codec": ["task.fit_vectors=2048", "task.fit_iterations=1", "task.pca_batches=2"],
}
"""What no step depends on: the parts of a step are one after another, or in other processes."""


def main() -> int:
    """Run the arms in turn, print, and keep the result beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("nano", "full"), default="nano")
    parser.add_argument("--models", default="backbone,superres,codec")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=4, help="timed in every turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, help="of torch, on a CPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm is not None:
        sys.stdout.write(json.dumps(measure(args, *json.loads(args.arm))) + "\n")
        return 0
    console = Console()
    arms = [
        (kind, name, settings)
        for kind in args.models.split(",")
        for name, settings in ARMS[kind]
        if name == "the recipe" or changes(args, kind, settings)
    ]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for turn in range(args.turns):
        for kind, name, settings in arms:
            one = in_a_process(args, kind, settings)
            found.setdefault((kind, name), []).append(one)
            said = one.get("error") or f"{min(one['seconds']):.2f} s a step"
            console.print(f"turn {turn + 1} of {args.turns}: {kind}, {name}: {said}")
    result = circumstances(args) | {"arms": listed(found), "tables": tables(found)}
    report.print_result(console, result)
    report.write_result(args.out / f"training-{args.size}-{args.device}.json", result)
    return 0


def changes(args: argparse.Namespace, kind: str, settings: list[str]) -> bool:
    """Say whether settings make another run of a recipe."""
    recipe = getattr(recipes, f"{kind}_{args.size}")()
    try:
        return bool(apply_overrides(recipe, settings) != recipe)
    except ConfigError:  # the recipe has no such part
        return False


def in_a_process(args: argparse.Namespace, kind: str, settings: list[str]) -> dict[str, Any]:
    """Measure one arm in a process of its own; say why if it could not be."""
    words = [sys.executable, __file__, "--size", args.size, "--device", args.device]
    words += ["--steps", str(args.steps), "--arm", json.dumps([kind, settings])]
    if args.threads is not None:
        words += ["--threads", str(args.threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(args: argparse.Namespace, kind: str, settings: list[str]) -> dict[str, Any]:
    """Take some steps and say what they took."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    recipe = getattr(recipes, f"{kind}_{args.size}")()
    run = apply_overrides(recipe, [*SMALLER[kind], *settings])
    ceiling = matrix_ceiling(device, run.train.precision)
    gc.collect()
    before = memory(device)
    with tempfile.TemporaryDirectory() as folder:
        task = task_of(kind, run)
        state = resume_or_start(task, run.train, Path(folder) / "run", args.device, lambda _: None)
        # past what happens once: the fit of a codec's codebooks
        state.step = first = run.train.num_steps // 2
        seconds, items, flops = [], 0, 0.0
        with Batches(task, run.train, first, device) as batches:
            for index in range(NUM_WARM + args.steps):
                flops_before, started_s = state.flops, time.perf_counter()
                update(state, forward_backward(state, batches)["loss"])
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if index >= NUM_WARM:
                    seconds.append(time.perf_counter() - started_s)
                items, flops = state.last_step_items, state.flops - flops_before
    return {
        "seconds": seconds,
        "items": items,
        "unit": task.unit,
        "flops": flops,
        "ceiling": ceiling,
        "bytes": memory(device) - before,
        "parameters": sum(p.numel() for p in task.model.parameters()),
    }


def task_of(kind: str, run: Any) -> Task:
    """Return a task on random songs as long as the model takes."""
    if kind == "codec":
        return CodecTask(run.task, noise(), seed=0, num_parts=run.train.num_parts, train=run.train)
    tokenizer = TextTokenizer.bytes()
    make = BackboneTask if kind == "backbone" else SuperResTask
    per_frame = 2 if kind == "backbone" else 1
    prompt = 400
    size = run.task.tokens_per_batch if kind == "backbone" else run.task.positions_per_batch
    num_frames = (min(size, run.model.max_positions) - prompt) // per_frame

    draw = np.random.default_rng(0)
    songs = [
        CodesExample(
            id=str(index), split="train", tags=("noise",), description="Noise.", lyrics=LYRICS,
            codes=HeldCodes(draw.integers(0, 1024, (64, num_frames), dtype=np.uint16)),
            instrumental=False, language="en", duration_s=num_frames / 21.5, truth_path=None,
        )
        for index in range(NUM_SONGS)
    ]  # fmt: skip
    codes = CodesDataset(songs, num_levels=64, codebook_size=1024, codec_digest="", digest="")
    return make(run, codes, tokenizer)  # type: ignore[no-any-return]


def noise() -> Corpus:
    """Return songs of noise that nothing is read from a disk for."""
    songs = [
        CorpusSong(
            id=str(index), split="train", duration_s=30.0, tags=(), description="", lyrics="",
            instrumental=True, language="en", audio={"mix": Path(str(index))}, truth_path=None,
        )
        for index in range(NUM_SONGS)
    ]  # fmt: skip

    def read(path: Path) -> np.ndarray:
        draw = np.random.default_rng(int(path.stem))
        return draw.normal(0, 0.1, (2, 30 * 44_100)).astype(np.float32)

    return Corpus(Path(), songs, read_whole=read)


def memory(device: torch.device) -> int:
    """Return the most bytes held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def circumstances(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures depend on."""
    options = ("size", "models", "device", "steps", "turns", "threads")
    said = [f"--{name} {getattr(args, name)}" for name in options if getattr(args, name)]
    command = f"python benchmarks/{Path(__file__).name} {' '.join(said)}"
    return report.circumstances("training", {}) | {"command": command}


def listed(found: dict[tuple[str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return every measurement."""
    return [{"model": kind, "arm": name, "turns": turns} for (kind, name), turns in found.items()]


def tables(found: dict[tuple[str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return a table for every model: the fastest steps, against the recipe's."""
    every = []
    for kind in dict.fromkeys(kind for kind, _ in found):
        arms = {name: turns for (k, name), turns in found.items() if k == kind}
        whole = [turn for turn in arms["the recipe"] if "error" not in turn]
        base_s = min((min(turn["seconds"]) for turn in whole), default=None)
        rows: list[list[report.Cell]] = []
        for name, turns in arms.items():
            good = [turn for turn in turns if "error" not in turn]
            if not good:
                rows.append([name, turns[0]["error"][:60], None, None, None, None])
                continue
            best_s, one = min(min(turn["seconds"]) for turn in good), good[0]
            ceiling = max(turn["ceiling"] for turn in good)
            share = one["flops"] / best_s / ceiling if one["flops"] else None
            most = max(turn["bytes"] for turn in good) / 1e9
            ratio = None if base_s is None else best_s / base_s
            rows.append([name, best_s, one["items"] / best_s, ratio, share, most])
        unit = whole[0]["unit"] if whole else "items"
        columns = ["", "s a step", f"{unit} a second", "time / recipe's", "of the ceiling", "GB"]
        every.append(report.table(f"A training step of the {kind}", columns, rows))
    return every


if __name__ == "__main__":
    raise SystemExit(main())
