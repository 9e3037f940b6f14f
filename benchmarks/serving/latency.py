"""How long a durable submit takes: the answer comes when the song is on the disk.

In benchmarks/:
    PYTHONPATH=../tests/serve python -m serving.latency           1, 16 and 200 clients
    PYTHONPATH=../tests/serve python -m serving.latency --busy    songs are made meanwhile
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from running import UNLIMITED, Running

from serving.asking import Load
from serving.keeping import keep

MUST_MS = {1: 20.0, 16: 200.0, 200: 1_000.0}


def main() -> int:
    """Measure; the status is 0 if every bound holds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = [*UNLIMITED, "--workers", "1" if args.busy else "0"]
        service = Running(data=Path(folder) / "data", options=options)
        service.start()
        if args.busy:
            service.wait_worker()
        rows = [measured(service, clients) for clients in MUST_MS]
        service.stop()
    found = {"busy": args.busy, "rows": rows}
    keep("latency-busy" if args.busy else "latency", found, args)
    return 0 if all(row["p99_ms"] <= row["must_ms"] and not row["refused"] for row in rows) else 1


def measured(service: Running, clients: int) -> dict[str, Any]:
    """Return the times of some clients."""
    token = service.client._token
    asyncio.run(Load(port=service.port, token=token).run(clients, 2 * clients))
    load = Load(port=service.port, token=token)
    requests = max(300, 10 * clients)
    seconds = asyncio.run(load.run(clients, requests))
    times_ms = sorted(1e3 * one.seconds for one in load.replies)
    return {
        "clients": clients, "requests": requests, "p50_ms": round(statistics.median(times_ms), 1),
        "p99_ms": round(times_ms[int(0.99 * len(times_ms))], 1), "most_ms": round(times_ms[-1], 1),
        "per_s": round(requests / seconds, 1), "must_ms": MUST_MS[clients],
        "refused": sum(one.status != 202 for one in load.replies),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
