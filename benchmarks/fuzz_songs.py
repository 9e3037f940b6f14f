"""Does any ``.khala`` file harm who opens it? Thousands of broken and hostile ones.

    python benchmarks/fuzz_songs.py --cases 20000 --seed 1

Half are changed blindly, which the file's own sha256 must see. The others are sealed again after
they were changed, as an attacker would: these reach what reads the header and the codes. Each must
come back as a song or as one clear error, soon and in little memory.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from audio_mutants import blank, cut, extreme, flip, insert, repeat, splice

from khala.errors import AudioError
from khala.song import Song, SongRequest
from khala.song.file import _HEAD, _NUM_HEX, MAX_FILE_BYTES, MAX_HEADER_BYTES, codes_digest

START = 8 + len(_HEAD)
OUTCOMES = ("read", "refused", "harm")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 63, 64, 65, 2**17, 2**17 + 1, 2**31, 2**63 - 1, 2**63, 2**64,
    10**400, 0.5, -0.0, 1e308, "", "x", "none", "\ud800", "\0", "<|end|>", "a\u0301" * 50,
    "x" * 100_000, "../../etc/passwd", [], [1], [[]], {}, {"a": 1}, {"": None}, [None] * 1_000,
)  # fmt: skip
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "1" * 5_000, "[" * 3_000 + "]" * 3_000, '"\\ud800"',
       '{"a":' * 500 + "1" + "}" * 500, "1.0e-400", "[]]", "", "tru", '"', "\\")  # fmt: skip


def main() -> int:
    """Open them all; print, keep, and fail if anything but a song or a clear error came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    details: collections.Counter[str] = collections.Counter()
    slowest = (0.0, "")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "song.khala"
        good = good_song(path)
        floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for label, data in cases(good, args.cases, args.seed):
            path.write_bytes(data)
            begun = time.perf_counter()
            outcome, detail = opened(path)
            slowest = max(slowest, (time.perf_counter() - begun, label))
            counts[outcome] += 1
            details[detail.replace(str(path), "FILE")[:120]] += 1
            if outcome == "harm":
                (args.out / "harm.khala").write_bytes(data)
                sys.stderr.write(f"{label}: {detail}\n")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    grown = {"peak_bytes": peak * unit, "before": floor * unit}
    return report_of(counts, details, slowest, grown, args)


def good_song(path: Path) -> bytes:
    """Save a song with everything in it."""
    generator = np.random.default_rng(0)
    request = SongRequest(prompt="pop, piano", lyrics="[Verse]\nGood morning, sun", duration_s=30.0)
    codes_QT = generator.integers(0, 1_024, (8, 200)).astype(np.int16)
    song = Song(request=request, codes_QT=codes_QT, seed=7, model="nano", lyrics=request.lyrics,
                digests={"codec": "0" * 64}, dtype="mixed", compat="published")  # fmt: skip
    return song.save(path).read_bytes()


def opened(path: Path) -> tuple[str, str]:
    """Open a file and tell what came of it."""
    try:
        Song.load(path)
    except AudioError as error:
        return "refused", str(error)
    except Exception as error:  # noqa: BLE001 (what must never come out)
        return "harm", repr(error)
    return "read", ""


def cases(good: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Give the extremes, then mutants, each from its own number."""
    yield from extremes(good)
    ways: list[Callable[..., bytes]] = [flip, extreme, cut, insert, splice, blank, repeat]
    for number in range(count):
        generator = np.random.default_rng([seed, number])
        if number % 2 == 0:
            way = ways[generator.integers(len(ways))]
            data = way(good, good, generator)
            yield f"{number}: {way.__name__}", sealed(data) if generator.random() < 0.5 else data
        else:
            yield f"{number}: header", with_header(good, generator)


def sealed(data: bytes) -> bytes:
    """Write the sha256 that belongs to the file."""
    blanked = data[:START] + b"0" * _NUM_HEX + data[START + _NUM_HEX :]
    digest = hashlib.sha256(blanked).hexdigest().encode()
    return data[:START] + digest + data[START + _NUM_HEX :]


def parts(good: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return the header, the song's values in it, and the codes."""
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    return header, json.loads(header["__metadata__"]["khala"]), good[8 + size :]


def joined(header: str, codes: bytes) -> bytes:
    """Return a sealed file of a header's text, which must begin as every header does."""
    text = header.encode("utf-8", "surrogatepass")
    return sealed(len(text).to_bytes(8, "little") + text + codes)


def with_values(good: bytes, inner: str) -> bytes:
    """Return the file with other text where the song's values are."""
    header, _, codes = parts(good)
    del header["__metadata__"]
    rest = json.dumps(header)[1:]
    begin = _HEAD.decode() + "0" * _NUM_HEX
    return joined(f'{begin}","khala":{json.dumps(inner)}}},{rest}', codes)


def with_header(good: bytes, generator: np.random.Generator) -> bytes:
    """Change one to three values of the header: other types, extremes, missing, unknown, raw."""
    _, values, _ = parts(good)
    raw = {}
    for _ in range(generator.integers(1, 4)):
        table = values.get("request") if generator.random() < 0.5 else values
        if not isinstance(table, dict):
            break
        names = [*table, "unknown"]
        name = names[generator.integers(len(names))]
        kind = generator.random()
        if kind < 0.1:
            table.pop(name, None)
        elif kind < 0.3:
            raw[f"@{len(raw)}@"] = RAW[generator.integers(len(RAW))]
            table[name] = f"@{len(raw) - 1}@"
        else:
            table[name] = VALUES[generator.integers(len(VALUES))]
    text = json.dumps(values)
    for mark, written in raw.items():
        text = text.replace(json.dumps(mark), written)
    return with_values(good, text)


def extremes(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Give files as large, as deep and as full as they may be."""
    _, values, codes = parts(good)
    for deep in (900, 10_000, 400_000):
        yield f"values {deep} deep", with_values(good, "[" * deep)
        yield f"tables {deep} deep", with_values(good, '{"a":' * deep)
        yield f"header {deep} deep", joined(_HEAD.decode() + "0" * 64 + '":' + "[" * deep, codes)
    for levels, frames in ((64, 2**17), (1, 1), (64, 2**17 + 1), (-1, -1), (2**40, 2**40)):
        changed = values | {"num_levels": levels, "num_frames": frames}
        yield f"{levels} x {frames} codes", with_values(good, json.dumps(changed))
    whole = 64 * 2**17 * 10 // 8
    digest = codes_digest(np.zeros((64, 2**17), np.int16))
    full = {"num_levels": 64, "num_frames": 2**17, "codes_sha256": digest}
    text = json.dumps(values | full)
    size = len(with_values(good, text)) - len(codes)
    for name, num_bytes in (("as many codes as may be", whole), ("more", MAX_FILE_BYTES + 1)):
        file = with_values(good, text)[:size] + bytes(num_bytes)
        yield name, sealed(file[: MAX_FILE_BYTES + 1])
    for name, table in (
        ("digests", {str(at): "" for at in range(60_000)}),
        ("lyrics", "a" * 900_000),
    ):
        yield f"many {name}", with_values(good, json.dumps(values | {name: table}))
    unknown = {f"k{at}": at for at in range(60_000)}
    yield "many fields", with_values(good, json.dumps(values | unknown))
    yield "many numbers", with_values(good, "[" + "1," * (MAX_HEADER_BYTES // 2 - 1_000) + "1]")
    yield "nothing", b""
    yield "a header that claims everything", b"\xff" * 8 + good[8:]


def report_of(
    counts: collections.Counter[str],
    details: collections.Counter[str],
    slowest: tuple[float, str],
    grown: dict[str, int],
    args: argparse.Namespace,
) -> int:
    """Print a table, write the JSON; 1 if there was harm."""
    from rich.console import Console  # late: one of these loads torch

    from khala.evals import report

    result = report.circumstances("fuzz_songs", {})
    result["command"] = f"python benchmarks/fuzz_songs.py --cases {args.cases} --seed {args.seed}"
    result["outcomes"] = {name: counts[name] for name in OUTCOMES}
    result["most_seconds"], result["slowest"] = round(slowest[0], 3), slowest[1]
    result["memory"] = grown
    result["details"] = details.most_common(30)
    row = [counts.total(), *(counts[name] for name in OUTCOMES), slowest[0]]
    row.append((grown["peak_bytes"] - grown["before"]) / 1e6)
    titles = ["files", *OUTCOMES, "most s", "memory grew by, MB"]
    result["tables"] = [report.table("hostile .khala files", titles, [row])]
    report.print_result(Console(width=120), result)
    report.write_result(args.out / "fuzz-songs.json", result)
    return int(counts["harm"] > 0)


if __name__ == "__main__":
    sys.exit(main())
