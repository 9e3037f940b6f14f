"""Is the promised memory kept by a model of the published size, and how long does a song take?

    python benchmarks/bench_full_size.py --work full-size

Checkpoints of the published sizes and layouts are made on the spot from random numbers and
converted (8 GB on the disk for what stays, as much again meanwhile). A short song is then made,
every stage in a process of its own, so that each shows its own peak; and once whole. Random
weights take the time and memory of trained ones, and sound like noise.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench_convert import write_published
from rich.console import Console
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from khala.convert.conversion import convert
from khala.convert.published import look
from khala.evals import report
from khala.infer.plan import BYTES, ModelSize, longest_that_fits, needs
from khala.machine import look_at

STAGES = ("backbone", "superres", "codec", "all")
STAGE_SECONDS = tuple(f"{stage}_s" for stage in STAGES[:-1])
CHILD = """
import json, sys, time
import torch
from khala import Khala, Song, SongRequest
folder, device, dtype, stage, seconds, file = sys.argv[1:]
begun = time.perf_counter()
model = Khala.from_pretrained(folder, device=device, dtype=dtype)
took = {"load_s": time.perf_counter() - begun}
def hear(event):
    if hasattr(event, "stage"):
        took[event.stage + "_s"] = event.elapsed_s
request = SongRequest(prompt="pop, piano", lyrics="[Verse]\\nla la la", duration_s=float(seconds),
                      seed=1, levels=2 if stage == "backbone" else 64)
if stage in ("backbone", "all"):
    song = model.generate(request, on_event=hear)
else:
    song = Song.load(file)
if stage == "superres":
    song = model.refine(song, on_event=hear)
if stage in ("codec", "all"):
    model.decode(song, on_event=hear)
if stage != "all":
    song.save(file)
if device == "cpu":
    words = open("/proc/self/status").read().split()
    peak = 1024 * int(words[words.index("VmHWM:") + 1])
else:
    peak = torch.cuda.max_memory_reserved(device)
print(json.dumps({**took, "peak_bytes": peak, "turns": model.models.plan.turns,
                  "frames": song.num_frames}))
"""


def main() -> int:
    """Make the model if it is not there, run, print, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the model; kept")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seconds", type=float, default=5.0, help="of song")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], choices=list(BYTES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    folder = args.work / "model"
    if not (folder / "tokenizer.json").is_file():
        make_model(args.work)
    size = ModelSize.of(folder)
    machine = look_at(args.device)
    runs = [
        {"dtype": dtype, "stage": stage, **one_run(args, size, dtype, stage)}
        for dtype in args.dtypes
        for stage in STAGES
    ]
    result = report.circumstances("full-size", {}) | {
        "command": f"python benchmarks/bench_full_size.py --work {args.work.name} "
        f"--device {args.device} --seconds {args.seconds:g} --dtypes {' '.join(args.dtypes)}",
        "free_bytes": machine.free_bytes,
        "longest_s": {
            dtype: longest_that_fits(size, machine, dtype, in_turns=True) for dtype in args.dtypes
        },
        "runs": runs,
        "tables": [table(runs, args.seconds)],
    }
    report.print_result(Console(width=120), result)
    report.write_result(args.out / f"full-size-{args.device.split(':')[0]}.json", result)
    return 0 if all(run["is_kept"] for run in runs) else 1


def make_model(work: Path) -> None:
    """Write full-size checkpoints, convert them, and keep what came out."""
    source = work / "published"
    write_published(source)
    write_tokenizer(source / "tokenizer.json")
    convert(look(source), work / "model")
    shutil.rmtree(source)


def write_tokenizer(path: Path) -> None:
    """Write a tokenizer with the published ones' number of words and special tokens."""
    letters = {chr(code): code for code in range(32, 127)}
    filler = {f"<filler {index}>": index for index in range(128_000) if index not in range(32, 127)}
    tokenizer = Tokenizer(BPE(vocab={**letters, **filler}, merges=[]))
    special = [AddedToken(f"<|special {index}|>", special=True) for index in range(256)]
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(path))


def one_run(args: argparse.Namespace, size: ModelSize, dtype: str, stage: str) -> dict[str, Any]:
    """Run one stage, or the whole song, in a process of its own."""
    file = args.work / f"song-{dtype}.khala"
    words = [str(args.work / "model"), args.device, dtype, stage, str(args.seconds), str(file)]
    done = subprocess.run([sys.executable, "-c", CHILD, *words], check=True, capture_output=True)
    found = dict(json.loads(done.stdout))
    wanted = needs(size, look_at(args.device), args.seconds, dtype)
    promised = wanted.in_turns if found["turns"] else wanted.together
    return {**found, "promised_bytes": promised, "is_kept": found["peak_bytes"] <= promised}


def table(runs: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return what was promised and what was needed."""
    titles = ["numbers", "stage", "seconds", "loading, s", "peak, GB", "promised, GB", "kept"]
    rows = []
    for run in runs:
        took = sum(value for name, value in run.items() if name in STAGE_SECONDS)
        gigabytes = (run["peak_bytes"] / 1e9, run["promised_bytes"] / 1e9)
        kept = "yes" if run["is_kept"] else "NO"
        rows.append([run["dtype"], run["stage"], took, run["load_s"], *gigabytes, kept])
    return report.table(f"a song of {seconds:g} s from a model of the published size", titles, rows)


if __name__ == "__main__":
    sys.exit(main())
