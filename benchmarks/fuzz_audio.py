"""Does any audio file harm the service that decodes it? Thousands of broken and hostile ones.

    python benchmarks/fuzz_audio.py --cases 5000 --seed 1

Every file goes through `khala.serve.uploads.decode_upload`, two at a time, in one process: it must
come back as samples or as one clear error, within the limits of time and memory, and this process
must stay what it was. A file that breaks the rule is kept, with its number; ``--only N`` makes it
again.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from audio_bombs import bombs
from audio_mutants import mutant, seeds

from khala.audio import read_audio
from khala.errors import AudioError, CapacityError
from khala.serve.uploads import DecodeLimits, decode_upload, sandbox_report

ALONE = """
import os, resource, subprocess, sys
source, *numbers = sys.argv[1:]
words = [sys.executable, "-I", "-m", "khala.serve.decoder", str(os.getpid()), *numbers]
with open(source, "rb") as upload, open(source + ".out", "wb") as samples:
    subprocess.run(words, stdin=upload, stdout=samples, stderr=subprocess.DEVNULL,
                   env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""A process begins with the peak of the one that started it; this one's is small."""

MEASURED_EVERY = 20
"""Mutants are decoded once more to measure memory, one in so many; bombs all."""

OUTCOMES = ("decoded", "refused by its bytes", "refused by the decoder", "resource-limited",
            "signals in the decoder", "other ends of the decoder", "harm")  # fmt: skip
SLOWEST = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One file to decode."""

    name: str
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one file ended."""

    name: str
    outcome: str
    detail: str
    seconds: float
    peak_bytes: int | None
    """Memory of a decoder that was given the file whatever its first bytes are."""


def main() -> int:
    """Decode mutants, then bombs; print, keep, and fail if anything was harmed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=5_000, help="mutants")
    parser.add_argument("--bombs", type=int, default=1_000, help="at most; all by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one mutant, by its number")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    numbers = range(args.cases) if args.only is None else [args.only]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = folder / "good"
        good.write_bytes(seeds()[0].data)
        want = read_audio(good)
        assert np.array_equal(decode_upload(good, workdir=folder), want)
        before = circumstances_of_this_process()
        rows = {
            "mutants": decoded(mutants(numbers, args.seed), folder, args, MEASURED_EVERY),
            "bombs": decoded(hostile(args.bombs), folder, args, 1),
        }
        after = circumstances_of_this_process()
        assert np.array_equal(decode_upload(good, workdir=folder), want)
        left = sorted(path.name for path in folder.iterdir())
        assert before == after, f"this process changed: {before} became {after}"
        assert left == ["good"], f"left behind: {left}"
        walls = sandbox_report(folder)
    return report_of(rows, walls, args)


def mutants(numbers: Iterable[int], seed: int) -> Iterator[Case]:
    """Make mutants by their numbers: any of them can be made again alone."""
    known = seeds()
    for number in numbers:
        made = mutant(known, np.random.default_rng([seed, number]))
        yield Case(name=f"{number}: {made.seed}, {made.way}", data=made.data)


def hostile(most: int) -> Iterator[Case]:
    """Make bombs, evenly chosen if not all."""
    every = list(bombs())
    for bomb in every[:: max(1, len(every) // max(1, most))][:most]:
        yield Case(name=bomb.name, data=bomb.make())


def decoded(
    cases: Iterator[Case], folder: Path, args: argparse.Namespace, measured_every: int
) -> list[Outcome]:
    """Decode two at a time; few wait in memory."""
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(2) as pool:
        for some in iter(lambda: list(itertools.islice(cases, 4)), []):
            numbers = itertools.count(len(outcomes))
            outcomes += pool.map(
                lambda case, number: tried(case, folder, args, number % measured_every == 0),
                some,
                numbers,
            )
            if len(outcomes) % 500 == 0:
                sys.stderr.write(f"{len(outcomes)} files\n")
    return outcomes


def tried(case: Case, folder: Path, args: argparse.Namespace, is_measured: bool) -> Outcome:
    """Decode one file and tell how it ended."""
    path = folder / f"upload-{threading.get_ident()}"
    path.write_bytes(case.data)
    begun = time.perf_counter()
    try:
        wave_CN = decode_upload(path, workdir=folder)
        outcome, detail = "decoded", f"{wave_CN.shape[1]} samples"
        if wave_CN.shape[0] != 2 or not np.isfinite(wave_CN).all():
            outcome = "harm"
        del wave_CN
    except CapacityError as error:
        outcome, detail = "resource-limited", str(error)
    except AudioError as error:
        outcome, detail = refused(error)
    except Exception as error:  # noqa: BLE001 (what must never come out)
        outcome, detail = "harm", repr(error)
    seconds = time.perf_counter() - begun
    if outcome == "harm":
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"harm-{case.name.split(':')[0]}.bin").write_bytes(case.data)
    peak = peak_bytes(path) if is_measured else None
    path.unlink()
    return Outcome(name=case.name, outcome=outcome, detail=detail, seconds=seconds, peak_bytes=peak)


def peak_bytes(path: Path) -> int:
    """Return the most memory a decoder of this file had, started by a small process."""
    limits = DecodeLimits()
    numbers = (limits.memory_bytes, limits.cpu_s, limits.max_duration_s, limits.wall_s)
    words = [sys.executable, "-I", "-c", ALONE, path, *(str(one) for one in numbers)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
    path.with_name(path.name + ".out").unlink()
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


def refused(error: AudioError) -> tuple[str, str]:
    """Tell who refused a file, and how the decoder ended if that was unexpected."""
    if isinstance(error.__cause__, subprocess.CalledProcessError):
        status = error.__cause__.returncode
        if status < 0:
            return "signals in the decoder", signal.Signals(-status).name
        return "other ends of the decoder", str(error.__cause__)
    is_early = "not audio we can read" in str(error) or "bytes; allowed" in str(error)
    return f"refused by {'its bytes' if is_early else 'the decoder'}", str(error)


def circumstances_of_this_process() -> dict[str, Any]:
    """Return what decoding must not change."""
    handles = Path("/proc/self/fd")
    return {
        "process": os.getpid(),
        "handles": len(list(handles.iterdir())) if handles.is_dir() else None,
        "threads": threading.active_count(),
    }


def report_of(
    rows: dict[str, list[Outcome]], walls: dict[str, str], args: argparse.Namespace
) -> int:
    """Print tables, write the JSON; 1 if anything was harmed."""
    from rich.console import Console  # late: one of these loads torch

    from khala.evals import report

    counts = {kind: collections.Counter(one.outcome for one in rows[kind]) for kind in rows}
    limits = DecodeLimits()
    result = report.circumstances("fuzz_audio", {})
    result["command"] = f"python benchmarks/fuzz_audio.py --cases {args.cases} --seed {args.seed}"
    result["walls"] = walls
    result["limits"] = {name: getattr(limits, name) for name in limits.__slots__}
    result["kinds"] = {kind: summary(outcomes) for kind, outcomes in rows.items()}
    result["bombs"] = [[one.name, one.outcome, one.detail] for one in rows["bombs"]]
    titles = ["", "files", *OUTCOMES, "most s", "peak MB"]
    table = [
        [kind, len(rows[kind]), *(counts[kind][name] for name in OUTCOMES),
         result["kinds"][kind]["most_seconds"], result["kinds"][kind]["peak_bytes"] / 1e6]
        for kind in rows
    ]  # fmt: skip
    result["tables"] = [report.table("hostile audio files", titles, table)]
    report.print_result(Console(width=170), result)
    report.write_result(args.out / "fuzz-audio.json", result)
    unexpected = ("harm", "other ends of the decoder")
    return int(any(counts[kind][name] for kind in rows for name in unexpected))


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Count, and find the extremes."""
    counts = collections.Counter(one.outcome for one in outcomes)
    slowest = sorted(outcomes, key=lambda one: -one.seconds)[:SLOWEST]
    measured = [one.peak_bytes for one in outcomes if one.peak_bytes is not None]
    details = collections.Counter(one.detail for one in outcomes if one.outcome != "decoded")
    return {
        "files": len(outcomes),
        "outcomes": {name: counts[name] for name in OUTCOMES},
        "median_seconds": round(float(np.median([one.seconds for one in outcomes] or [0.0])), 3),
        "most_seconds": round(max((one.seconds for one in outcomes), default=0.0), 3),
        "peak_bytes": max(measured, default=0),
        "peaks_measured": len(measured),
        "details": details.most_common(20),
        "slowest": [[one.name, one.outcome, round(one.seconds, 3)] for one in slowest],
    }


if __name__ == "__main__":
    sys.exit(main())
