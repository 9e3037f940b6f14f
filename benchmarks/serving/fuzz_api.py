"""Requests that nobody would send, to the real server: no server error, nothing slow.

In benchmarks/ (needs `pip install schemathesis`):
    PYTHONPATH=../tests/serve python -m serving.fuzz_api

Two fuzzers: Schemathesis draws requests from the API's own document, valid and not, and checks
answers against it; ours mutates bodies, headers and paths as bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from running import UNLIMITED, Running

from serving.keeping import keep

SLOW_S = 5.0
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,negative_data_rejection,ignored_auth"
)


def main() -> int:
    """Run both; the status is 0 if nothing broke."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=700, help="Schemathesis's, of each route")
    parser.add_argument("--cases", type=int, default=20_000, help="of our own fuzzer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = Running(data=Path(folder) / "data", options=[*UNLIMITED])
        service.start()
        service.wait_worker()
        assert service.process is not None
        pid = service.process.pid
        drawn = schemathesis(service, Path(folder), args) if args.examples else {}
        own = asyncio.run(mutations(service, args.cases, args.seed))
        alive = service.process.poll() is None and service.process.pid == pid
        client = service.client
        (song,) = client.create(prompt="pop", lyrics="la", duration=2.0, priority=1)
        works = client.wait(song.id, timeout_s=300.0).state == "done"
        service.stop()
        log = (Path(folder) / "data.log").read_text(errors="replace")
    found = {
        "schemathesis": drawn, "own": own, "server_alive": alive, "works_afterwards": works,
        "tracebacks": log.count("Traceback"), "seed": args.seed,
    }  # fmt: skip
    keep("fuzz", found, args)
    bad = own["server_errors"] + own["slow"] + found["tracebacks"]
    return 0 if alive and works and not bad and not drawn.get("failures") else 1


def schemathesis(service: Running, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run Schemathesis on every route but the streams, which do not end."""
    report = folder / "report.json"
    document = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url",
         f"http://127.0.0.1:{service.port}", "-H",
         f"Authorization: Bearer {service.client._token}", "--checks", CHECKS, "-n",
         str(args.examples), "--seed", str(args.seed), "--workers", "2", "--no-color",
         "--exclude-path-regex", "events$", "--continue-on-failure", "--phases",
         "examples,coverage,fuzzing", "--max-response-time", str(SLOW_S),
         "--report-json-path", str(report), "--suppress-health-check", "all",
         "--generation-database", "none", "--no-shrink", "--warnings", "off"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    text = done.stdout
    (folder.parent / "schemathesis.txt").write_text(text + done.stderr)
    cases = re.search(r"([\d,]+) generated", text)
    failures = re.findall(r"^- (.+)$", text, re.MULTILINE)
    return {
        "cases": int(cases[1].replace(",", "")) if cases else 0,
        "status": done.returncode,
        "failures": dict(collections.Counter(failures)),
        "end": text.strip().splitlines()[-6:],
    }


BODY = {
    "prompt": "pop", "lyrics": "[Verse]\nla la", "duration": 2.0, "instrumental": False, "seed": 1,
    "n": 1, "levels": 2, "title": "a", "language": "en", "temperature": 1.0, "top_k": 80,
}  # fmt: skip
PATHS = (
    "/v1/songs", "/v1/songs/{id}", "/v1/songs/{id}/audio", "/v1/songs/{id}/cancel",
    "/v1/songs/{id}/refine", "/v1/songs/{id}/variants", "/v1/songs/{id}/pieces/0",
    "/v1/lyrics/check", "/v1/songs/import", "/release_task", "/query_result", "/v1/audio?path=x",
    "/v1/tags?q=x", "/v1/songs?limit=1&cursor=x", "/metrics", "/v1/me",
)  # fmt: skip
METHODS = ("GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS")
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, -1e308, 2**63, 2**200, "", "x" * 6_000, "\x00", "\ud800", "🎵" * 900,
    [], {}, [[[[]]]], {"a": {"b": {}}}, "<|eot_id|>", "../../etc/passwd", "'; DROP TABLE", "\u202e",
    "a" + "\u0301" * 20, "http://169.254.169.254/", "file:///etc/passwd", 0.1, "NaN",
)  # fmt: skip


async def mutations(service: Running, cases: int, seed: int) -> dict[str, Any]:
    """Send mutated requests over a few connections."""
    token, statuses, slow = service.client._token, collections.Counter[int](), 0
    song = service.client.create(prompt="pop", lyrics="la", duration=2.0)[0].id
    left = iter(range(cases))

    async def client(number: int) -> None:
        nonlocal slow
        rng = random.Random(seed * 1_000 + number)
        stream = None
        for _ in left:
            data = request(rng, token, service.port, song)
            started_s = time.perf_counter()
            try:
                if stream is None:
                    stream = await asyncio.open_connection("127.0.0.1", service.port)
                reader, writer = stream
                writer.write(data)
                await writer.drain()
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SLOW_S * 2)
                statuses[int(head.split()[1])] += 1
            except (OSError, EOFError, TimeoutError, ValueError, IndexError):
                statuses[0] += 1
            slow += time.perf_counter() - started_s > SLOW_S
            if stream is not None:
                stream[1].close()  # what comes after a broken request is anybody's guess
            stream = None

    started_s = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(8)))
    return {
        "cases": cases, "seconds": round(time.perf_counter() - started_s, 1), "slow": slow,
        "statuses": dict(sorted(statuses.items())),
        "server_errors": sum(num for status, num in statuses.items() if status >= 500),
    }  # fmt: skip


def request(rng: random.Random, token: str, port: int, song: str) -> bytes:
    """Return a request, right in most ways."""
    path = rng.choice(PATHS).replace("{id}", rng.choice((song, "0" * 32, song[:-1], "..", "%00")))
    method = rng.choice(METHODS) if rng.random() < 0.3 else "POST"
    fields = dict(BODY)
    for _ in range(rng.randint(0, 3)):
        fields[rng.choice((*BODY, "odd", "priority", "task_id_list", "batch_size"))] = rng.choice(
            ODD
        )
    for name in list(fields):
        if rng.random() < 0.2:
            del fields[name]
    body = json.dumps(fields).encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        changed = bytearray(body)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(changed))
            changed[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        body = bytes(changed)
    kind = rng.choice(("application/json",) * 8 + ("text/plain", "application/octet-stream", "x"))
    length = len(body) if rng.random() < 0.97 else rng.choice((-1, 0, 10**12, "x", len(body) // 2))
    lines = [
        f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Type: {kind}",
        f"Content-Length: {length}", f"Authorization: Bearer {token}", "Connection: close",
    ]  # fmt: skip
    if rng.random() < 0.2:
        odd = "".join(chr(rng.randrange(32, 255)) for _ in range(rng.randint(1, 60)))
        name = rng.choice(("Range", "If-None-Match", "Last-Event-ID", "Idempotency-Key", "Origin",
                           "If-Range", "Accept", "X-Odd", "Transfer-Encoding"))  # fmt: skip
        lines.append(f"{name}: {odd}")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


if __name__ == "__main__":
    sys.exit(main())
