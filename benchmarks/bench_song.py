"""Time a model, stage by stage, on one song: `make bench`.

The song is made whole and as a sketch in turn, so that a computer that slows down slows both.
Shown are medians; the JSON file has every run, medians, minima, peak memory and circumstances.
Seconds of two computers say little about each other; times real time of one computer does.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from khala.infer import Khala
    from khala.song import SongRequest

STAGES = ("backbone", "superres", "codec", "whole")
SKETCH_LEVELS = 2


def one_run(model: Khala, request: SongRequest) -> dict[str, float]:
    """Return seconds by stage, and the length of the song."""
    from khala.infer import Progress

    seconds: dict[str, float] = {}

    def hear(event: object) -> None:
        if isinstance(event, Progress):
            seconds[event.stage] = event.elapsed_s

    started_s = time.perf_counter()
    song = model.generate(request, on_event=hear)
    model.decode(song, on_event=hear)
    seconds["whole"] = time.perf_counter() - started_s
    seconds["song"] = song.duration_s
    return seconds


def summary(
    runs: list[dict[str, float]], choose: Callable[[list[float]], float]
) -> dict[str, float]:
    """Return one number for each stage of some runs."""
    return {name: choose([run[name] for run in runs]) for name in runs[0]}


def peak_memory_gb() -> float:
    """Return the most memory this process has held; the unit of ru_maxrss is the system's."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load the model, warm up, make the songs in turn."""
    import torch

    from khala.evals.report import circumstances
    from khala.infer import Khala
    from khala.song import SongRequest

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    started_s = time.perf_counter()
    model = Khala.from_pretrained(arguments.model)
    load_s = time.perf_counter() - started_s
    most = model.superres.config.layout.num_levels
    lyrics = (Path(__file__).parents[1] / "examples" / "song.txt").read_text()

    def request(levels: int) -> SongRequest:
        return SongRequest(
            prompt="female vocal, pop, piano, 100 bpm",
            lyrics=lyrics,
            duration_s=arguments.duration,
            seed=7,
            levels=levels,
        )

    one_run(model, SongRequest(prompt="pop", lyrics="la", duration_s=2.0, levels=most))
    runs: dict[str, list[dict[str, float]]] = {"master": [], "sketch": []}
    for _ in range(arguments.runs):
        runs["master"].append(one_run(model, request(most)))
        runs["sketch"].append(one_run(model, request(SKETCH_LEVELS)))
    name = Path(arguments.model).name
    return {
        "bench": "song",
        **circumstances("song", {}),
        "command": f"python benchmarks/bench_song.py --model {name} "
        f"--duration {arguments.duration:g} --runs {arguments.runs}"
        + (f" --threads {arguments.threads}" if arguments.threads is not None else ""),
        "num_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ["OMP_WAIT_POLICY"],
        "model": name,
        "digests": model.digests,
        "num_levels": {"master": most, "sketch": SKETCH_LEVELS},
        "load_s": load_s,
        "peak_memory_gb": peak_memory_gb(),
        "runs": runs,
        "medians_s": {kind: summary(each, statistics.median) for kind, each in runs.items()},
        "minima_s": {kind: summary(each, min) for kind, each in runs.items()},
    }


def main() -> None:
    """Measure, show and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--duration", type=float, default=30.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    # As the command line does, before torch is first loaded: see khala.cli.
    from khala.cli import choose_waiting

    choose_waiting()
    result = measure(arguments)
    from rich.console import Console
    from rich.table import Table

    from khala.evals.report import write_result

    table = Table("song", "stage", "median s", "least s", "times real time")
    for kind, medians in result["medians_s"].items():
        for name in (stage for stage in STAGES if stage in medians):
            table.add_row(
                kind,
                name,
                f"{medians[name]:.2f}",
                f"{result['minima_s'][kind][name]:.2f}",
                f"{medians['song'] / medians[name]:.2f}",
            )
    console = Console()
    console.print(table)
    console.print(
        f"load {result['load_s']:.1f} s, peak memory {result['peak_memory_gb']:.2f} GB, "
        f"{result['num_threads']} threads"
    )
    write_result(arguments.out / "bench_song.json", result)


if __name__ == "__main__":
    main()
