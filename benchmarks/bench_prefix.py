"""Prefix dropout of the codec: what is gained at few levels, and lost at all of them, when training
decodes random prefixes of the levels. Arms differ in the share of examples decoded whole.

    python benchmarks/bench_prefix.py --corpus corpus --runs runs/prefix

Measured on crops of songs that were held out. A run that was begun goes on; one that ended is not
made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from khala.evals import plots, report
from khala.evals.tables import with_interval
from khala.train.hooks import read_log
from khala.train.run import train_codec

SHARES = (1.0, 0.5, 0.0)
"""Of examples decoded from all levels: 1 as published, .5 as in nano, 0 always a prefix."""

DEPTHS = (2, 4, 8, 16, 32, 64)
TERM = "mel"


def main() -> int:
    """Train what is missing, compare, print, draw, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="songs with vocal stems")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs; kept")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    console = Console(width=170)
    found: dict[float, list[list[float]]] = {}
    for seed in range(args.seeds):
        for share in SHARES:
            found.setdefault(share, []).append(measured(share, seed, args, console))
            keep(found, args, console)
    return 0


def measured(share: float, seed: int, args: argparse.Namespace, console: Console) -> list[float]:
    """Train one arm with one seed; return its error at every depth."""
    run = args.runs / f"whole-{share}-{seed}"
    settings = [
        f"train.seed={seed}", f"train.num_steps={args.steps}", "train.validate_every=0",
        f"task.quantize_from={args.steps // 4}", "task.refit_vectors=0", "task.fit_vectors=16000",
        f"task.objective.full_depth={share}", f"task.validation_depths={list(DEPTHS)}",
        "task.validation_clips=24",
    ]  # fmt: skip
    if not (run / "model").exists():
        train_codec(args.corpus, run, "nano", settings, on_message=console.print)
    last = [line["valid"] for line in read_log(run) if "valid" in line][-1]
    return [last[f"{TERM}_k{depth}"] for depth in DEPTHS]


def keep(found: dict[float, list[list[float]]], args: argparse.Namespace, console: Console) -> None:
    """Print and write what is known so far."""
    names = {share: f"whole in {share:g} of examples" for share in found}
    rows: list[list[report.Cell]] = []
    for share, runs in found.items():
        row: list[report.Cell] = [names[share], len(runs)]
        for place in range(len(DEPTHS)):
            row.append(float(np.mean([run[place] for run in runs])))
            apart = [a[place] - b[place] for a, b in zip(runs, found[SHARES[0]], strict=False)]
            row.append(None if share == SHARES[0] else with_interval(apart, digits=4))
        rows.append(row)
    columns = ["", "seeds", *(name for k in DEPTHS for name in (f"k={k}", "minus whole"))]
    result: dict[str, Any] = report.circumstances("prefix", {}) | {
        "command": f"python benchmarks/bench_prefix.py --steps {args.steps} --seeds {args.seeds}",
        "runs": {names[share]: runs for share, runs in found.items()},
        "tables": [report.table("Mel distance of held-out crops from k levels", columns, rows)],
    }
    report.print_result(console, result)
    report.write_result(args.out / "prefix.json", result)
    series = {
        names[share]: [
            (float(k), float(np.mean([run[place] for run in runs])))
            for place, k in enumerate(DEPTHS)
        ]
        for share, runs in found.items()
    }
    panel = plots.Panel(title="Mel distance, held-out crops", x_label="levels", series=series)
    plots.save_curves(args.out / "prefix.png", [panel], on_message=console.print)


if __name__ == "__main__":
    raise SystemExit(main())
