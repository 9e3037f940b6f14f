"""What Content Credentials cost: bytes and milliseconds, for each format.

In benchmarks/:
    PYTHONPATH=../tests/serve python -m serving.credentials
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from khala.audio import FORMATS, encode_audio
from khala.serve.provenance import EMBEDDED, Made, Signer, verify
from serving.keeping import keep

REPEATS = 9


def main() -> int:
    """Measure; the status is 0 if every file verifies."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results")
    args = parser.parse_args()
    num = int(args.seconds * 44_100)
    wave_CN = np.random.default_rng(0).normal(0.0, 0.1, (2, num)).clip(-1, 1).astype(np.float32)
    made = Made(
        song_id="0" * 32, model="nano", digests={"codec": "0" * 64}, made_at=datetime.now(UTC),
        levels=64, seed=1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        signer = Signer.load_or_make(Path(folder) / "signing")
        rows = [measured(signer, made, wave_CN, ending) for ending in FORMATS]
    keep("credentials", {"seconds": args.seconds, "rows": rows}, args)
    return 0 if all(row["state"] == "valid" for row in rows) else 1


def measured(signer: Signer, made: Made, wave_CN: Any, ending: str) -> dict[str, Any]:
    """Return what one format costs."""
    data = encode_audio(f"a{ending}", wave_CN, sample_rate_hz=44_100, metadata=made.tags())
    if ending in EMBEDDED:
        sign_ms, signed = timed(lambda: signer.sign(data, ending, made))
        verify_ms, found = timed(lambda: verify(signed, ending))
        added = len(signed) - len(data)
    else:
        sign_ms, sidecar = timed(lambda: signer.sidecar(data, made))
        verify_ms, found = timed(lambda: verify(data, ending, sidecar=sidecar))
        added = len(sidecar)
    return {
        "format": ending, "bytes_added": added, "sign_ms": sign_ms, "verify_ms": verify_ms,
        "state": found.state,
    }  # fmt: skip


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the median milliseconds of some work, and what it returns."""
    times = []
    for _ in range(REPEATS):
        started_s = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started_s)
    return round(1e3 * statistics.median(times), 1), result


if __name__ == "__main__":
    sys.exit(main())
