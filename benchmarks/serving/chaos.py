"""Kill a service and its workers at random moments while songs are made; nothing may be lost.

In benchmarks/:
    PYTHONPATH=../tests/serve python -m serving.chaos      300 kills, 1,000 songs
    PYTHONPATH=../tests/serve python -m serving.chaos --real --kills 10 --songs 12    nano

Every tenth kill is of the server, the others are of workers. A song in a hundred kills its worker
from inside and must be set aside, its neighbours untouched. Prints and keeps what was found.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from checking import check
from running import Running

from khala.client import Client, ServiceError
from khala.serve.settings import Settings
from serving.keeping import keep


def main() -> int:
    """Run it; the status is 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--songs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", action="store_true", help="the bundled model")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results")
    args = parser.parse_args()
    found = run(kills=args.kills, songs=args.songs, seed=args.seed, real=args.real)
    keep("chaos-real" if args.real else "chaos", found, args)
    return 1 if found["bad"] else 0


def run(*, kills: int, songs: int, seed: int, real: bool) -> dict[str, Any]:
    """Make songs under fire, and return what became of them."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        service = Running(data=Path(folder) / "data", fake=not real, options=["--workers", "2"])
        service.start()
        started_s = time.monotonic()
        taken: dict[str, int] = {}
        poison: list[str] = []
        asking = threading.Thread(target=ask, args=(service, songs, real, taken, poison))
        asking.start()
        num_server = num_worker = 0
        while num_server + num_worker < kills:
            time.sleep(rng.uniform(2.0, 8.0) if real else rng.uniform(0.05, 1.2))
            if rng.random() < 0.1:
                num_server += 1
                service.kill()
                service.start()
                continue
            workers = service.workers()
            if workers:
                num_worker += 1
                try:
                    os.kill(rng.choice(workers), signal.SIGKILL)
                except ProcessLookupError:
                    num_worker -= 1
        killed_s = time.monotonic() - started_s
        asking.join()
        wait_idle(service, timeout_s=1_200.0)
        took_s = time.monotonic() - started_s
        service.stop()
        service.start()  # a last start sweeps what the kills left
        time.sleep(2.0 if not real else 8.0)
        service.stop()
        found = (
            check_real(service, taken)
            if real
            else check(Settings(data=service.data), taken, poison)
        )
        log = (Path(folder) / "data.log").read_text(errors="replace")
    return {
        "kills_of_servers": num_server, "kills_of_workers": num_worker, "songs_asked": len(taken),
        "poison": len(poison), "seed": seed, "seconds_of_kills": round(killed_s, 1),
        "seconds": round(took_s, 1), "tracebacks": log.count("Traceback"), **found,
    }  # fmt: skip


def ask(service: Running, songs: int, real: bool, taken: dict[str, int], poison: list[str]) -> None:
    """Ask for songs one after another, each with a key, until it is taken."""
    for number in range(songs):
        prompt = "crash" if not real and number % 100 == 50 else "pop"
        while True:
            try:
                client: Client = service.client
                (song,) = client.create(
                    prompt=prompt, lyrics="la", duration=8.0 if real else 2.0, seed=number,
                    key=f"chaos-{number}",
                )  # fmt: skip
                break
            except (ServiceError, OSError) as error:
                if isinstance(error, ServiceError) and error.status == 422:
                    raise
                time.sleep(0.2)
        taken[song.id] = number
        if prompt == "crash":
            poison.append(song.id)
        time.sleep(0.0 if real else 0.05)


def wait_idle(service: Running, timeout_s: float) -> None:
    """Wait until no song is made any more."""
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        try:
            states = service.client._json("GET", "/v1/me")["states"]
            if not states.get("queued") and not states.get("working"):
                return
        except (ServiceError, OSError):
            pass
        time.sleep(0.5)
    raise RuntimeError("songs were not finished")


def check_real(service: Running, taken: dict[str, int]) -> dict[str, Any]:
    """Make every song again without a service, and compare."""
    from khala import Khala, Song
    from khala.infer import replay

    model, bad = Khala.from_pretrained("nano"), 0
    for song in taken:
        made = Song.load(service.data / "songs" / song / "song.khala")
        bad += not (made.num_levels == 64 and replay(model, made).identical)
    num = len(list((service.data / "songs").iterdir()))
    extra = num - len(taken)
    return {"songs": num, "bad": {k: v for k, v in (("wrong", bad), ("twice", extra)) if v}}


if __name__ == "__main__":
    sys.exit(main())
