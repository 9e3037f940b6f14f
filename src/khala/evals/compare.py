"""``khala eval compare A B``: two results on the same songs, paired, with confidence intervals.

Two means alone cannot be compared: songs differ more from each other than models do. The same song
under both gives a difference that does not contain the song.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from khala.errors import ConfigError
from khala.evals import report

NUM_RESAMPLES = 4000
FEWEST = 3
MAX_RESULT_BYTES = 64 << 20

Values = dict[str, dict[str, float]]
"""By unit (a song, a clip), then by what was measured of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareEval:
    """Arguments of ``khala eval compare``."""

    first: Path
    """JSON of one evaluation, such as before/songs.json."""

    second: Path
    """JSON of the same evaluation of something else; differences are second minus first."""

    out: Path | None = None
    """Folder for compare.json."""

    seed: int = 0
    """Of the bootstrap."""


def run_compare_eval(
    first: Path,
    second: Path,
    out: Path | None = None,
    seed: int = 0,
    on_message: report.OnMessage = report.ignore_messages,
) -> dict[str, Any]:
    """Pair two results by song or clip: mean differences with 95 % confidence intervals.

    Raises:
        ConfigError: a file is no result, or the two have no song or clip in common.
    """
    arguments = dict(locals())
    arguments.pop("on_message")
    results = [_read(first), _read(second)]
    if results[0]["eval"] != results[1]["eval"]:
        raise ConfigError(
            f"{first} is an evaluation of {results[0]['eval']} and {second} one of "
            f"{results[1]['eval']}: compare like with like"
        )
    one, other = (_values(result) for result in results)
    shared = [unit for unit in one if unit in other]
    if not shared:
        raise ConfigError(f"{first} and {second} measured nothing of the same song or clip")
    if len(shared) < max(len(one), len(other)):
        on_message(
            f"{len(shared)} of {len(one)} and {len(other)} songs or clips are in both; the rest is "
            "left out"
        )
    names = [name for name in one[shared[0]] if any(name in other[unit] for unit in shared)]
    rows = []
    for name in names:
        pairs = [
            (one[unit][name], other[unit][name])
            for unit in shared
            if name in one[unit] and name in other[unit]
        ]
        if len(pairs) >= FEWEST:
            rows.append({"name": name, **difference(np.array(pairs), seed=seed)})
    shown: list[list[report.Cell]] = [
        [row["name"], row["num"], row["first"], row["second"], row["mean"], row["low"], row["high"],
         row["differs"]]
        for row in rows
    ]  # fmt: skip
    result = {
        "compared": results[0]["eval"],
        "commands": [result.get("command") for result in results],
        "num_shared": len(shared),
        "differences": rows,
        "tables": [
            report.table(
                "Second minus first, paired",
                ["measured", "pairs", "first", "second", "difference", "95 % from", "to",
                 "differs"],
                shown,
            )
        ],
        "notes": [
            f"{len(rows)} differences at 95 %: about {len(rows) * 0.05:.1f} of them would "
            "differ between two runs of the same thing"
        ],
    }  # fmt: skip
    return report.finish("compare", result, arguments=arguments, out=out)


def difference(pairs_N2: np.ndarray, *, seed: int) -> dict[str, Any]:
    """Return means and the mean paired difference with its 95 % interval, by bootstrap.

    Few pairs make the percentile interval too narrow; it is widened by the t distribution's factor.
    """
    gaps = pairs_N2[:, 1] - pairs_N2[:, 0]
    generator = np.random.default_rng(seed)
    drawn = gaps[generator.integers(0, len(gaps), (NUM_RESAMPLES, len(gaps)))].mean(axis=1)
    mean = float(gaps.mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    wider = t.ppf(0.975, len(gaps) - 1) / 1.96 * math.sqrt(len(gaps) / (len(gaps) - 1))
    low, high = mean - wider * (mean - float(low)), mean + wider * (float(high) - mean)
    return {
        "num": len(gaps),
        "first": float(pairs_N2[:, 0].mean()),
        "second": float(pairs_N2[:, 1].mean()),
        "mean": mean,
        "low": low,
        "high": high,
        "differs": bool(low > 0 or high < 0),
    }


def _read(path: Path) -> dict[str, Any]:
    """Read what ``khala eval ... --out`` wrote."""
    try:
        if path.stat().st_size > MAX_RESULT_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_RESULT_BYTES >> 20} MB: not a result")
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"cannot read {path} as JSON: {error}") from error
    if not isinstance(result, dict) or "eval" not in result:
        raise ConfigError(f"{path} is not a result of khala eval")
    return result


def _values(result: Mapping[str, Any]) -> Values:
    """Return every number that a result has of every song or clip."""
    found: Values = {}
    for row in result.get("songs", []) if isinstance(result.get("songs"), list) else []:
        found[str(row["song"])] = _numbers(row)
    clips = result.get("clips", [])
    for index, clip in enumerate(clips):
        unit = f"{clip['song']} {clip['start_s']:.2f}"
        found[unit] = {
            f"{series}: {name}": value
            for series, distances in result.get("distances", {}).items()
            for name, value in _numbers(distances[index]).items()
        }
    return found


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what can be averaged: numbers and yes or no."""
    kept = {name: value for name, value in row.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in kept.items() if math.isfinite(value)}
