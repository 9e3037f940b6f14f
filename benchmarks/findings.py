"""The paper's findings about super-resolution, at the bundled model's size: arms that differ in one
thing, at equal steps on the same songs, some seeds each, all measured on the same held-out songs.

    python benchmarks/findings.py --codes codes --corpus corpus --recogniser ear \\
        --backbone runs/backbone/model --runs runs/findings

A run that was begun goes on; one that was measured is not made again. Results so far are written
after every run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from khala.checkpoint import resolve_part
from khala.corpus import open_codes
from khala.evals import plots, report
from khala.evals.completion import run_superres_eval
from khala.evals.ngrams import Unigram
from khala.evals.tables import with_interval
from khala.infer.assemble import assemble_model
from khala.tokens import COARSE_LEVELS
from khala.train.hooks import read_log
from khala.train.run import train_superres

RESULTS = Path(__file__).parent / "results"
BASE = "from the backbone"
MEASURED = ("nats", "mel80", "per")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train; everything else is the recipe."""

    name: str
    overrides: tuple[str, ...] = ()
    from_backbone: bool = True


@dataclass(frozen=True, kw_only=True)
class Run:
    """An arm with a seed, and what came out."""

    arm: str
    seed: int
    nats: float
    mel80: float
    per: float
    curve: list[list[float]]
    """Step and Task 1's loss on training batches."""


def main() -> int:
    """Train and measure every arm that is not there yet, and show them all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("codes", "corpus", "recogniser", "backbone", "runs"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("nano"), help="whose codec is used")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--songs", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    console = Console()
    runs: list[Run] = []
    for seed in range(arguments.seeds):
        for arm in arms(arguments.codes):
            runs.append(made(arm, seed, arguments, console))
            result = summary(runs, arguments)
            report.write_result(arguments.out / "findings.json", result)
    report.print_result(console, result)
    draw(arguments.out / "findings.png", runs, console)
    return 0


def arms(codes: Path) -> Iterator[Arm]:
    """Give the arms: what the paper compared, then what it left open."""
    nats = unigram_nats(codes)
    gains = [known - row["nats"] for row, known in zip(known_levels(), nats, strict=True)]
    yield Arm(name=BASE)
    yield Arm(name="from nothing", from_backbone=False)
    yield Arm(name="no Task 0", overrides=("task.task_0_ratio=0",))
    yield Arm(name="Task 0 in .3", overrides=("task.task_0_ratio=0.3",))
    yield Arm(name="levels alike", overrides=("task.level_power=0",))
    losses = [row["nats"] for row in known_levels()]
    for name, chances in (("entropy", nats), ("loss", losses), ("gain", gains)):
        written = json.dumps([round(max(chance, 0.0), 4) for chance in chances])
        yield Arm(name=f"levels by {name}", overrides=(f"task.level_chances={written}",))


def known_levels() -> list[dict[str, float]]:
    """Return what the bundled model pays at every fine level."""
    levels: list[dict[str, float]] = json.loads((RESULTS / "superres.json").read_text())["levels"]
    return levels


def unigram_nats(codes: Path) -> list[float]:
    """Return the entropy of every fine level's codes."""
    dataset = open_codes(codes)
    train = [example.codes_QT for example in dataset.split("train")]
    size = int(dataset.codebook_size)
    entropies = []
    for level in range(COARSE_LEVELS, dataset.num_levels):
        chances_K = Unigram.fit(
            [codes_QT[level].astype(np.int64) for codes_QT in train], size=size
        ).probabilities_K
        entropies.append(float(-(chances_K * np.log(chances_K)).sum()))
    return entropies


def made(arm: Arm, seed: int, arguments: argparse.Namespace, console: Console) -> Run:
    """Train and measure one arm with one seed, or read what was measured before."""
    folder: Path = arguments.runs / f"{arm.name.replace(' ', '-')}-{seed}"
    kept = folder / "measured.json"
    if kept.is_file():
        return Run(**json.loads(kept.read_text()))
    console.print(f"{arm.name}, seed {seed}")
    codec = resolve_part(arguments.model, "codec")
    trained = train_superres(
        arguments.codes, folder, "nano",
        [f"train.num_steps={arguments.steps}", f"train.seed={seed}", "train.validate_every=0",
         *arm.overrides],
        init=arguments.backbone if arm.from_backbone else None,
        codec=codec, device=arguments.device, on_message=console.print,
    )  # fmt: skip
    whole = folder / "whole"
    if not whole.exists():
        assemble_model(codec=codec, backbone=arguments.backbone, superres=trained, out=whole)
    found = run_superres_eval(
        whole, arguments.codes, arguments.corpus, songs=arguments.songs,
        recogniser=arguments.recogniser, device=arguments.device, on_message=console.print,
    )  # fmt: skip
    run = Run(
        arm=arm.name,
        seed=seed,
        nats=float(np.mean([row["nats"] for row in found["levels"]])),
        mel80=found["mel80_and_stft"]["super-resolution"][0],
        per=found["per"]["super-resolution"]["per"],
        curve=[[line["step"], line["task_1"]] for line in read_log(folder) if "task_1" in line],
    )
    report.write_result(kept, vars(run))
    return run


def summary(runs: list[Run], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return every arm's means, and what each seed of it differs from the base's, in 95 %."""
    rows: list[list[report.Cell]] = []
    names = list(dict.fromkeys(run.arm for run in runs))
    base = {run.seed: run for run in runs if run.arm == BASE}
    for name in names:
        of = [run for run in runs if run.arm == name]
        row: list[report.Cell] = [name, len(of)]
        for measured in MEASURED:
            row.append(float(np.mean([getattr(run, measured) for run in of])))
            apart = [getattr(run, measured) - getattr(base[run.seed], measured) for run in of]
            row.append(None if name == BASE else with_interval(apart))
        rows.append(row)
    columns = ["arm", "seeds"]
    for measured in MEASURED:
        columns += [measured, "minus base"]
    return {
        "eval": "findings",
        **report.circumstances("findings", {}),
        "command": f"python benchmarks/findings.py --codes {arguments.codes.name} --corpus "
        f"{arguments.corpus.name} --recogniser {arguments.recogniser.name} --backbone "
        f"{arguments.backbone.name} --runs {arguments.runs.name} --steps {arguments.steps} "
        f"--songs {arguments.songs}",
        "runs": [vars(run) for run in runs],
        "tables": [report.table(f"After {arguments.steps} steps", columns, rows)],
        "notes": [
            "nats: mean of the fine levels given the true ones below; mel80 and PER: of songs "
            "completed from their true coarse codes; intervals are over seeds, paired"
        ],
    }


def draw(path: Path, runs: list[Run], console: Console) -> None:
    """Draw Task 1's loss over the steps, as means of an arm's seeds.

    One panel for arms that draw their levels alike, one for those that do not: a batch of high
    levels costs more, whatever was learned.
    """
    panels = []
    for title, is_shown in (
        ("Task 1, nats, same levels drawn", lambda name: "levels" not in name),
        ("Task 1, nats, other levels drawn", lambda name: "levels" in name),
    ):
        series: Mapping[str, list[tuple[float, float]]] = {
            name: [
                (float(steps[0][0]), float(np.mean([step[1] for step in steps])))
                for steps in zip(*(run.curve for run in runs if run.arm == name), strict=False)
            ]
            for name in dict.fromkeys(run.arm for run in runs)
            if is_shown(name)
        }
        panels.append(plots.Panel(title=title, x_label="step", series=series, is_log=False))
    plots.save_curves(path, panels, on_message=console.print)


if __name__ == "__main__":
    sys.exit(main())
