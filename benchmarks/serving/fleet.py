"""A fleet on PostgreSQL: one of two workers killed for good, the database killed twice, 300 songs.

In benchmarks/ (needs PostgreSQL's programs, apt-get install postgresql):
    PYTHONPATH=../tests/serve python -m serving.fleet
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from checking import check
from postgres import Postgres
from running import HERE, Running

from khala.client import ServiceError
from khala.serve.settings import Settings
from serving.keeping import keep


def main() -> int:
    """Run it; the status is 0 if every song was made once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--songs", type=int, default=300)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), args.songs)
    keep("fleet", found, args)
    return 1 if found["bad"] else 0


def run(folder: Path, songs: int) -> dict[str, Any]:
    """Make songs on two machines, and take one away."""
    database = Postgres(folder=folder / "postgres" / "server")
    database.create()
    database.start()
    shared = ["--database", database.url, "--objects", f"file://{folder}/objects"]
    (folder / "objects").mkdir()
    front = Running(
        data=folder / "front",
        options=[*shared, "--workers", "0", "--limit", "requests_per_s=1000",
                 "--limit", "queue_each=1000"],
    )  # fmt: skip
    front.start()
    machines = {name: machine(name, folder, shared) for name in ("one", "two")}
    front.wait_worker()
    taken: dict[str, int] = {}
    started_s = time.monotonic()
    asking = threading.Thread(target=ask, args=(front, songs, taken))
    asking.start()
    times: dict[str, float] = {}
    try:
        time.sleep(8.0)
        cut = working_on(front, "one")
        machines["one"].send_signal(signal.SIGKILL)
        times["takeover_s"] = taken_over(front, cut)
        for number in (1, 2):
            time.sleep(6.0)
            database.kill()
            time.sleep(2.0)
            away_s = time.monotonic()
            database.start()
            times[f"database_{number}_made_again_s"] = made_again(front) - away_s
        asking.join()
        for song in taken:
            front.client.wait(song, timeout_s=600.0)
    finally:
        for one in machines.values():
            one.kill()
            one.wait()
        front.stop()
    settings = Settings(
        data=folder / "front", database=database.url, objects=f"file://{folder}/objects", workers=0
    )
    found = check(settings, taken)
    database.kill()
    return {
        "asked": len(taken), "seconds": round(time.monotonic() - started_s, 1),
        **{name: round(value, 1) for name, value in times.items()}, **found,
    }  # fmt: skip


def machine(name: str, folder: Path, shared: list[str]) -> subprocess.Popen[bytes]:
    """Start a machine with one worker."""
    path = os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", "")))
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "khala", "worker", "--name", name, "--data",
             str(folder / name), *shared, "--maker", "fake_maker:load"],
            stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip


def ask(front: Running, songs: int, taken: dict[str, int]) -> None:
    """Ask for songs; every tenth is slow, so that there is something to be cut off in."""
    for number in range(songs):
        prompt = "slow" if number % 10 == 0 else "pop"
        while True:
            try:
                (song,) = front.client.create(
                    prompt=prompt, lyrics="la", duration=2.0, seed=number, key=f"fleet-{number}",
                    levels=16,
                )  # fmt: skip
                taken[song.id] = number
                break
            except ServiceError as error:
                if error.status == 422:
                    raise
                time.sleep(0.2)
        time.sleep(0.05)


def working_on(front: Running, name: str) -> tuple[str, int]:
    """Wait until a machine is at a song; return it, and the levels that it has."""
    import sqlalchemy as sa

    from khala.serve.tables import SONGS, connect

    options = front.options
    url = options[options.index("--database") + 1]
    engine = connect(Settings(data=front.data, database=url))
    try:
        while True:
            at_work = sa.select(SONGS.c.id, SONGS.c.levels).where(
                SONGS.c.worker == f"{name}-1", SONGS.c.state == "working"
            )
            with engine.connect() as db:
                row = db.execute(at_work).first()
            if row is not None:
                return row[0], row[1]
            time.sleep(0.02)
    finally:
        engine.dispose()


def taken_over(front: Running, cut: tuple[str, int]) -> float:
    """Return how long it takes until somebody goes on with a song."""
    started_s = time.monotonic()
    song, levels = cut
    while time.monotonic() - started_s < 60.0:
        if front.client.get(song).levels > levels:
            return time.monotonic() - started_s
        time.sleep(0.05)
    return float("inf")


def made_again(front: Running) -> float:
    """Return when a song was finished after now."""
    before: int | None = None
    while True:
        try:
            done = int(front.client._json("GET", "/v1/me")["states"].get("done", 0))
            if before is not None and done > before:
                return time.monotonic()
            before = done if before is None else before
        except ServiceError:
            pass
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
