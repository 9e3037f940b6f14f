"""How often do the ears hear somebody sing where nobody does? Songs of a seed of their own, half of
them instrumental: the held-out songs of a demo corpus are all sung.

    python benchmarks/bench_instrumentals.py --recogniser ear --tagger tagger
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy.stats import beta

from khala.evals import report
from khala.evals.recogniser import Recogniser
from khala.evals.tagger import Tagger
from khala.evals.wanted import SUNG_PER_S
from khala.synth import Studio, render_song
from khala.synth.form import plan_song
from khala.synth.voicestore import default_folder, ensure_banks

HEARD = ("tagger", "recogniser")


def main() -> int:
    """Measure, print, and keep the result beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recogniser", type=Path, required=True)
    parser.add_argument("--tagger", type=Path, required=True)
    parser.add_argument("--songs", type=int, default=60, help="of each kind")
    parser.add_argument("--seed", type=int, default=99, help="of songs that nobody learned from")
    parser.add_argument("--voices", type=Path, default=default_folder())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    console = Console()
    result = measure(arguments, console)
    report.print_result(console, result)
    report.write_result(arguments.out / "instrumentals.json", result)
    return 0


def measure(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Hear songs of both kinds, and count how often each ear says that somebody sings."""
    ear = Recogniser.from_pretrained(arguments.recogniser)
    tagger = Tagger.from_pretrained(arguments.tagger)
    ensure_banks(arguments.voices, workers=1)
    studio = Studio(banks=arguments.voices)
    rows: list[list[report.Cell]] = []
    songs: list[dict[str, Any]] = []
    for kind in ("instrumental", "sung"):
        of: list[dict[str, Any]] = []
        for one in heard(kind, arguments, studio, ear, tagger):
            console.print(f"{kind} {len(of) + 1} of {arguments.songs}")
            of.append(one)
        songs += of
        rates = [float(one["phonemes_per_s"]) for one in of]
        row: list[report.Cell] = [kind, len(of), float(np.mean(rates))]
        for name in HEARD:
            count = sum(bool(one[name]) for one in of)
            low, high = interval(count, len(of))
            row += [count, f"{low:.2f} to {high:.2f}"]
        rows.append(row)
    columns = ["songs", "number", "phonemes a second"]
    for name in HEARD:
        columns += [f"sings, says the {name}", "95 %"]
    return {
        "eval": "instrumentals",
        **report.circumstances("instrumentals", {}),
        "command": f"python benchmarks/bench_instrumentals.py --recogniser "
        f"{arguments.recogniser.name} --tagger {arguments.tagger.name} --songs {arguments.songs} "
        f"--seed {arguments.seed}",
        "songs": songs,
        "tables": [report.table("Does somebody sing?", columns, rows)],
    }


def heard(
    kind: str, arguments: argparse.Namespace, studio: Studio, ear: Recogniser, tagger: Tagger
) -> Iterator[dict[str, Any]]:
    """Give what both ears hear of every song of a kind."""
    chosen = (
        index
        for index in itertools.count()
        if (plan_song(index, arguments.seed).voice is None) == (kind == "instrumental")
    )
    for index in itertools.islice(chosen, arguments.songs):
        wave_CN = render_song(index, arguments.seed, studio=studio).mix.mix_CN
        per_s = len(ear.recognise(wave_CN)) / (wave_CN.shape[1] / 44_100)
        yield {
            "song": index,
            "kind": kind,
            "phonemes_per_s": per_s,
            "recogniser": per_s >= SUNG_PER_S,
            "tagger": tagger.hear(wave_CN).sings,
        }


def interval(count: int, number: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share (Clopper and Pearson)."""
    low = 0.0 if count == 0 else float(beta.ppf(0.025, count, number - count + 1))
    high = 1.0 if count == number else float(beta.ppf(0.975, count + 1, number - count))
    return low, high


if __name__ == "__main__":
    sys.exit(main())
