"""Two results compared: paired, with intervals that mean what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from khala.errors import ConfigError
from khala.evals import run_compare_eval
from khala.evals.compare import difference


def write(path: Path, rows: list[dict[str, Any]], kind: str = "songs") -> Path:
    path.write_text(json.dumps({"eval": kind, "command": "khala eval", "songs": rows}))
    return path


def test_a_small_paired_difference_is_seen_among_large_ones(tmp_path: Path) -> None:
    """Songs differ by far more than models: unpaired means would say nothing."""
    generator = np.random.default_rng(0)
    songs = [{"song": str(n), "per": float(generator.normal(0, 10))} for n in range(20)]
    better = [
        {**row, "per": row["per"] - 0.5 + float(generator.normal(0, 0.3))} for row in songs[::-1]
    ]
    one, other = write(tmp_path / "a.json", songs), write(tmp_path / "b.json", better)
    result = run_compare_eval(one, other, out=tmp_path)
    (row,) = result["differences"]
    assert row["num"] == 20
    assert row["low"] < -0.5 < row["high"] < 0
    assert row["differs"]
    assert json.loads((tmp_path / "compare.json").read_text()) == result
    (same,) = run_compare_eval(one, one)["differences"]
    assert (same["mean"], same["differs"]) == (0.0, False)


@pytest.mark.parametrize("num", [5, 20])
def test_intervals_hold_the_truth_as_often_as_they_say(num: int) -> None:
    """An interval too narrow makes every change an improvement."""
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        gaps = generator.normal(0.2, 1.0, num)
        found = difference(np.stack([np.zeros(num), gaps], axis=1), seed=trial)
        covered += found["low"] <= 0.2 <= found["high"]
    assert 0.91 <= covered / 300 <= 0.985


def test_only_what_both_measured_is_compared(tmp_path: Path) -> None:
    """A song that is missing in one must not be averaged into the other."""
    rows = [{"song": str(n), "per": 0.5, "tempo_right": n > 2, "key": "C"} for n in range(6)]
    more = [*rows[1:], {"song": "9", "per": 100.0}]
    said: list[str] = []
    result = run_compare_eval(
        write(tmp_path / "a.json", rows), write(tmp_path / "b.json", more), on_message=said.append
    )
    assert {row["name"] for row in result["differences"]} == {"per", "tempo_right"}
    assert result["differences"][0]["second"] == 0.5
    assert "5 of 6 and 6" in said[0]


def test_clips_of_a_codec_are_paired_by_place(tmp_path: Path) -> None:
    """The same song at another second is another clip."""
    for name, shift in (("a", 0.0), ("b", 0.1)):
        result = {
            "eval": "codec",
            "clips": [{"song": "1", "start_s": float(n)} for n in range(4)],
            "distances": {"k=2": [{"mel80": n + shift} for n in range(4)]},
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    (row,) = run_compare_eval(tmp_path / "a.json", tmp_path / "b.json")["differences"]
    assert row["name"] == "k=2: mel80"
    assert row["mean"] == pytest.approx(0.1)


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    """Each mistake gets one line."""
    rows = [{"song": str(n), "per": 0.5} for n in range(4)]
    songs = write(tmp_path / "a.json", rows)
    codec = write(tmp_path / "codec.json", rows, kind="codec")
    others = write(tmp_path / "c.json", [{"song": "x", "per": 1.0}])
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "list.json").write_text("[]")
    for path, message in (
        (codec, "like with like"),
        (others, "nothing of the same"),
        (tmp_path / "text.json", "cannot read"),
        (tmp_path / "list.json", "not a result"),
        (tmp_path / "none.json", "cannot read"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_compare_eval(songs, path)
