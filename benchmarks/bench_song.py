"""Time the bundled model, stage by stage, on one request: `make bench`.

Writes a JSON file with the circumstances. Warm-up first, then the given number of runs; figures
are medians. Ratios between computers mean little; the real-time factor of one computer does.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from khala.evals.report import write_result
from khala.infer import Khala, Progress
from khala.song import SongRequest

STAGES = ("backbone", "superres", "codec")


def one_run(model: Khala, request: SongRequest) -> dict[str, float]:
    """Return seconds by stage, and the length of the song."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--duration", type=float, default=30.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    started_s = time.perf_counter()
    model = Khala.from_pretrained(arguments.model)
    load_s = time.perf_counter() - started_s
    lyrics = (Path(__file__).parents[1] / "examples" / "song.txt").read_text()
    request = SongRequest(
        prompt="female vocal, pop, piano, 100 bpm",
        lyrics=lyrics,
        duration_s=arguments.duration,
        seed=7,
    )
    one_run(model, SongRequest(prompt="pop", lyrics="la", duration_s=2.0))
    runs = [one_run(model, request) for _ in range(arguments.runs)]
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    table = Table("stage", "seconds", "times real time")
    for name in (*STAGES, "whole"):
        table.add_row(name, f"{medians[name]:.2f}", f"{medians['song'] / medians[name]:.2f}")
    Console().print(table)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    Console().print(f"load {load_s:.1f} s, peak memory {peak_gb:.2f} GB")
    write_result(
        arguments.out / "bench_song.json",
        {"load_s": load_s, "peak_memory_gb": peak_gb, "runs": runs, "medians_s": medians},
    )


if __name__ == "__main__":
    main()
