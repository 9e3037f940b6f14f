"""Ten thousand submissions with three thousand keys, and kills in between: three thousand songs.

In benchmarks/:
    PYTHONPATH=../tests/serve python -m serving.keys
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from running import UNLIMITED, Running

from khala.serve.settings import Settings
from khala.serve.tables import SONGS, connect
from serving.asking import post
from serving.keeping import keep


def main() -> int:
    """Run it; the status is 0 if every key is one song."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--submissions", type=int, default=10_000)
    parser.add_argument("--keys", type=int, default=3_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = Running(data=Path(folder) / "data", options=[*UNLIMITED, "--workers", "0"])
        service.start()
        found = asyncio.run(run(service, args))
        service.stop()
        with connect(Settings(data=service.data)).connect() as db:
            rows = db.scalar(sa.select(sa.func.count()).select_from(SONGS))
            jobs = db.scalar(sa.text("SELECT count(*) FROM workflow_status"))
    found |= {"songs": rows, "jobs": jobs, "seed": args.seed}
    keep("keys", found, args)
    right = rows == jobs == args.keys == found["distinct_answers"] and not found["wrong_answers"]
    return 0 if right and found["mismatches_refused"] == found["mismatches_sent"] else 1


async def run(service: Running, args: argparse.Namespace) -> dict[str, Any]:
    """Submit and kill at the same time."""
    rng = random.Random(args.seed)
    numbers = list(range(args.keys)) + [
        rng.randrange(args.keys) for _ in range(args.submissions - args.keys)
    ]
    rng.shuffle(numbers)
    token, host = service.client._token, f"127.0.0.1:{service.port}"
    answers: dict[int, set[str]] = {}
    counts = {"lost_connections": 0, "mismatches_sent": 0, "mismatches_refused": 0, "other": 0}
    left, kills_left = iter(numbers), args.kills

    async def client() -> None:
        stream = None
        for number in left:
            other = rng.random() < 0.02 and number in answers
            body = {"prompt": "pop", "lyrics": "la", "duration": 2.0, "seed": number + other}
            while True:
                try:
                    if stream is None:
                        stream = await asyncio.open_connection("127.0.0.1", service.port)
                    reply = await post(stream, host, token, body, key=f"key-{number}")
                except (OSError, EOFError):
                    counts["lost_connections"] += 1
                    stream = None
                    await asyncio.sleep(0.05)
                    continue
                if other:
                    counts["mismatches_sent"] += 1
                    counts["mismatches_refused"] += reply.status == 422
                    break
                if reply.status == 202:
                    answers.setdefault(number, set()).add(reply.body["songs"][0]["id"])
                    break
                counts["other"] += 1
                await asyncio.sleep(0.05)

    async def kill() -> None:
        nonlocal kills_left
        while kills_left:
            await asyncio.sleep(rng.uniform(0.5, 1.5))
            kills_left -= 1
            service.kill()
            await asyncio.to_thread(service.start)

    started_s = time.perf_counter()
    await asyncio.gather(kill(), *(client() for _ in range(args.clients)))
    ids = {song for songs in answers.values() for song in songs}
    return {
        "submissions": args.submissions, "keys": args.keys, "kills": args.kills,
        "clients": args.clients, "seconds": round(time.perf_counter() - started_s, 1),
        "distinct_answers": len(ids),
        "wrong_answers": sum(len(songs) != 1 for songs in answers.values()), **counts,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
