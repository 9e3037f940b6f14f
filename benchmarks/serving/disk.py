"""A disk that is full again and again while songs are made: what was taken is kept, and goes on.

In benchmarks/ (mounts a small disk in memory, alone in a namespace of its own):
    PYTHONPATH=../tests/serve python -m serving.disk
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from checking import check
from running import Running

from khala.client import ServiceError
from khala.serve.settings import Settings
from serving.keeping import keep

INSIDE = "KHALA_DISK_INSIDE"


def main() -> int:
    """Run it; the status is 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=12, help="times that the disk is full")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results")
    args = parser.parse_args()
    if INSIDE not in os.environ:
        again = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
        return subprocess.run(
            [*again, sys.executable, "-m", "serving.disk", *sys.argv[1:]], check=False,
            env={**os.environ, INSIDE: "1"},
        ).returncode  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", disk], check=True)
        try:
            found = run(disk, args.rounds, args.seed)
        finally:
            subprocess.run(["umount", "--lazy", disk], check=False)
    keep("disk", found, args)
    return 1 if found["bad"] or found["odd_errors"] else 0


def run(disk: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Fill the disk to the last byte, keep on asking, make room, and look what became of it."""
    rng = random.Random(seed)
    # the floor is low, so that it is the writes themselves that fail
    service = Running(data=disk / "data", options=["--limit", "disk_floor_bytes=1",
                                                   "--limit", "requests_per_s=1000"])  # fmt: skip
    service.start()
    service.wait_worker()
    taken: dict[str, int] = {}
    refused: dict[str, int] = {}
    healthy, recoveries = 0, []
    number = 0

    def ask() -> None:
        nonlocal number
        number += 1
        try:
            (song,) = service.client.create(
                prompt="pop", lyrics="la", duration=2.0, seed=number, levels=16,
                key=f"disk-{number}",
            )  # fmt: skip
            taken[song.id] = number
        except ServiceError as error:
            name = f"{error.status} {error.code}"
            refused[name] = refused.get(name, 0) + 1

    for _ in range(rounds):
        for _ in range(rng.randint(2, 5)):
            ask()
        time.sleep(rng.uniform(0.0, 1.0))
        fill(disk)
        for _ in range(6):
            ask()
            time.sleep(rng.uniform(0.0, 0.4))
        healthy += service.client._json("GET", "/healthz")["status"] in ("ok", "no worker yet")
        (disk / "filler").unlink()
        started_s = time.monotonic()
        until_s = started_s + 60.0
        before = set(taken)
        while set(taken) == before and time.monotonic() < until_s:
            ask()
        recoveries.append(time.monotonic() - started_s)
    waited_s = time.monotonic()
    for song in taken:
        service.client.wait(song, timeout_s=120.0)
    waited_s = time.monotonic() - waited_s
    service.stop()
    service.start()
    service.stop()
    found = check(Settings(data=service.data), taken)
    log = (disk / "data.log").read_text(errors="replace")
    free = shutil.disk_usage(disk).free
    return {
        "rounds": rounds, "taken": len(taken), "refused": refused, "healthy_rounds": healthy,
        "seconds_to_take_again": [round(one, 2) for one in recoveries],
        "seconds_to_finish": round(waited_s, 1), "free_at_the_end_mb": free >> 20,
        "odd_errors": sum(num for name, num in refused.items() if not name.startswith("507")),
        "tracebacks": log.count("Traceback"), **found,
    }  # fmt: skip


def fill(disk: Path) -> None:
    """Leave no byte."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


if __name__ == "__main__":
    sys.exit(main())
