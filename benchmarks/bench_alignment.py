"""Does a model of acoustic tokens alone find out which word is sung, and when? Backbones that are
told nothing, beside ones that are told where the words are, measured at every checkpoint.

    python benchmarks/bench_alignment.py --codes codes --codec nano --runs runs/alignment

Measured on sung lines and sections of songs that were held out: how many nats a code the right
words are worth against those of another example, and how much of the best head's attention lies on
the letters that are being sung. A run that was begun goes on; one that ended is not made again.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors import safe_open

from khala.backbone import Backbone
from khala.checkpoint import config_from_dict
from khala.corpus import CodesExample, open_codes
from khala.corpus.excerpts import with_excerpts
from khala.evals import plots, report
from khala.recipes import backbone_nano_short
from khala.tokens import TextTokenizer
from khala.train.alignment import WatchedHead
from khala.train.checkpoints import list_checkpoints
from khala.train.hooks import read_log
from khala.train.prompts import partner_lyrics
from khala.train.run import train_backbone
from khala.train.tasks.backbone import BackboneRun, BackboneTask

TOLD = "told where the words are"
ARMS = {
    "pure": ("told nothing", ("task.alignment=0", "task.lessons=0")),
    "told": (TOLD, ("task.lessons=0",)),
}
SPLITS = ("test", "test_voice", "test_words")
LONGEST_S = 16.0


def main() -> int:
    """Train what is missing, measure every checkpoint, print, draw, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--codes", type=Path, required=True, help="songs whose words have times")
    parser.add_argument("--codec", type=Path, default=Path("nano"), help="starts the tables")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs; kept")
    parser.add_argument("--steps", type=int, default=8000, help="of a model told nothing")
    parser.add_argument("--told-steps", type=int, default=2000, help="of one told where words are")
    parser.add_argument("--arms", default="pure,told", help="pure, told or both")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--examples", type=int, default=24, help="measured of every split")
    parser.add_argument("--points", type=int, default=12, help="checkpoints measured of a run")
    parser.add_argument("--no-training", action="store_true", help="measure what is there")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    console = Console(width=170)
    curves: dict[str, dict[str, list[dict[str, float]]]] = {}
    for seed in range(args.seeds):
        for short in args.arms.split(","):
            arm, overrides = ARMS[short]
            run = args.runs / f"{short}-{seed}"
            if not args.no_training and not (run / "model").exists():
                steps = args.steps if short == "pure" else args.told_steps
                settings = [
                    f"train.seed={seed}", f"train.num_steps={steps}", "train.log_every=50",
                    "train.validate_every=150", "task.num_valid_songs=8",
                    "train.checkpoint_every_s=200", "train.keep_checkpoints=100",
                ]  # fmt: skip
                train_backbone(
                    args.codes, run, "nano-short", [*settings, *overrides], codec=args.codec,
                    on_message=console.print,
                )  # fmt: skip
            if run.exists():
                curves.setdefault(arm, {})[str(seed)] = curve(run, args, console)
    result = report.circumstances("alignment", {}) | {
        "command": f"python benchmarks/bench_alignment.py --steps {args.steps} "
        f"--told-steps {args.told_steps} --seeds {args.seeds}",
        "curves": curves,
        "tables": [table(curves)],
    }
    report.print_result(console, result)
    report.write_result(args.out / "alignment.json", result)
    draw(args.out / "alignment.png", curves)
    return 0


def curve(run: Path, args: argparse.Namespace, console: Console) -> list[dict[str, float]]:
    """Measure some checkpoints of a run, evenly spread, and its start."""
    config = config_from_dict(BackboneRun, json.loads((run / "config.json").read_text())["config"])
    every = list_checkpoints(run)
    places = {round(place) for place in np.linspace(0, len(every) - 1, args.points)}
    # asked without the arm's own losses, so that all are measured by one ruler
    plain = replace(config, task=replace(backbone_nano_short().task, lessons=0.0))
    task = BackboneTask(plain, open_codes(args.codes), TextTokenizer.bytes())
    sung = {split: held_out(args.codes, split, args.examples) for split in SPLITS}
    points = [{"tokens": 0.0, **measured(task, sung)}]
    for path in (every[place] for place in sorted(places)):
        load(task.backbone, path)
        read = [
            line["num_items"]
            for line in read_log(run)
            if "num_items" in line and line["step"] <= int(path.name[5:])
        ]
        points.append({"tokens": float(read[-1]), **measured(task, sung)})
        last = points[-1]
        said = "  ".join(f"{name} {value:.4g}" for name, value in last.items())
        console.print(f"{run.name} {path.name}: {said}")
    return points


def held_out(codes: Path, split: str, num: int) -> list[CodesExample]:
    """Return sung lines and sections of held-out songs, spread over them."""
    songs = [song for song in open_codes(codes).split(split) if not song.instrumental]
    parts = [
        part
        for part in with_excerpts(songs, LONGEST_S, lines=True)[len(songs) :]
        if part.words and part.duration_s <= LONGEST_S
    ]
    return [parts[round(place)] for place in np.linspace(0, len(parts) - 1, num)]


def load(backbone: Backbone, checkpoint: Path) -> None:
    """Put the averaged weights of a checkpoint into a backbone."""
    tensors = {}
    for path in checkpoint.glob("*.safetensors"):
        with safe_open(str(path), "pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name.startswith("average."):
                    own = name.removeprefix("average.").removeprefix("backbone.")
                    tensors[own] = file.get_tensor(name)
    own_names = backbone.state_dict().keys()
    backbone.load_state_dict({name: tensors[name] for name in own_names}, strict=True)


@torch.no_grad()
def measured(task: BackboneTask, sung: dict[str, list[CodesExample]]) -> dict[str, float]:
    """Return what the right words are worth, and how much of a head's attention they have."""
    task.backbone.eval()
    values: dict[str, float] = {}
    layers = range(len(task.backbone.layers))
    heads = range(task.run.model.trunk.num_heads)
    for split, examples in sung.items():
        worth, seen = [], []
        for example, other in zip(examples, partner_lyrics(examples), strict=True):
            prompt = task.prompts.build(example)
            batch = task.collate([(prompt, example)])
            with ExitStack() as watching:
                watched = [
                    watching.enter_context(WatchedHead(task.backbone, layer, head))
                    for layer in layers
                    for head in heads
                ]
                right = nats(task, batch)
            if len(batch["targets_N4"]):
                seen.append([float((-head.loss(batch["targets_N4"])).exp()) for head in watched])
            foreign = task.collate([(task.prompts.build(example, lyrics=other), example)])
            worth.append(nats(task, foreign) - right)
        values[f"{split}/worth"] = float(np.mean(worth))
        values[f"{split}/worth_se"] = float(np.std(worth, ddof=1) / len(worth) ** 0.5)
        values[f"{split}/attention"] = float(np.mean(seen, axis=0).max())
    return values


def nats(task: BackboneTask, batch: dict[str, Any]) -> float:
    """Return the mean loss of the codes of a batch."""
    with torch.autocast("cpu", torch.bfloat16):
        return float(task._next_token(batch)["loss"])


def table(curves: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, Any]:
    """Return where every run ended."""
    columns = ["", "seed", "million tokens"]
    columns += [f"{split}, {what}" for split in SPLITS for what in ("nats", "s.e.", "attention")]
    lines: list[list[report.Cell]] = []
    for arm, runs in curves.items():
        for seed, points in runs.items():
            for name, point in (("start", points[0]), ("end", points[-1])):
                line: list[report.Cell] = [f"{arm}, {name}", seed, point["tokens"] / 1e6]
                for split in SPLITS:
                    line += [
                        point[f"{split}/{what}"] for what in ("worth", "worth_se", "attention")
                    ]
                lines.append(line)
    return report.table("What the right words are worth, and how they are seen", columns, lines)


def draw(path: Path, curves: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    """Draw worth and attention over the tokens read, as means of the seeds."""
    titles = {
        "worth": "What the right words are worth, nats a code",
        "attention": "Attention of the best head on the letters sung",
    }
    panels = []
    for what, title in titles.items():
        series = {}
        for arm, runs in curves.items():
            for split in SPLITS:
                series[f"{arm}, {split}"] = [
                    (
                        points[0]["tokens"] / 1e6,
                        float(np.mean([p[f"{split}/{what}"] for p in points])),
                    )
                    for points in zip(*runs.values(), strict=False)
                ]
        panels.append(
            plots.Panel(title=title, x_label="million tokens read", series=series, is_log=False)
        )
    plots.save_curves(path, panels, on_message=lambda _: None)


if __name__ == "__main__":
    raise SystemExit(main())
