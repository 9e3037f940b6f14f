"""Marks of somebody else's program: each song its own, and a failure costs nothing else."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from khala.audio import write_audio
from khala.errors import ConfigError
from khala.evals import run_songs_eval
from khala.evals.scorer import Scorer

LINES = """
import json, sys, soundfile
for line in open(sys.argv[1]):
    wave, rate = soundfile.read(json.loads(line)["path"])
    print("a progress line")
    print(json.dumps({"PEAK": float(abs(wave).max()), "rate": rate, "note": "loud"}))
"""
BY_NAME = """
import json, pathlib, sys, soundfile
out = pathlib.Path(sys.argv[2]); out.mkdir()
songs = sorted(pathlib.Path(sys.argv[1]).glob("*.wav"), reverse=True)
marks = {one.stem: {"PEAK": float(abs(soundfile.read(one)[0]).max())} for one in songs}
(out / "result.json").write_text(json.dumps(marks))
"""


def python(code: str, *arguments: str) -> str:
    return shlex.join([sys.executable, "-c", code, *arguments])


def waves(count: int) -> list[np.ndarray]:
    return [np.full((2, 2_000), 0.1 * (place + 1), np.float32) for place in range(count)]


@pytest.mark.parametrize(
    "command", [python(LINES, "{jsonl}"), python(BY_NAME, "{folder}", "{scores}")]
)
def test_every_song_gets_its_own_marks(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks written to the wrong row, or lost between two runs, would never be noticed."""
    monkeypatch.setattr("khala.evals.scorer.BATCH", 2)
    scorer = Scorer.parse(f"x: {command}")
    rows: list[dict[str, object]] = [{"song": place} for place in range(5)]
    for row, wave_CN in zip(rows, waves(5), strict=True):
        scorer.add(wave_CN, row)
    scorer.finish()
    assert scorer.failure is None
    assert scorer.marks[0] == "x_PEAK"
    assert [row["x_PEAK"] for row in rows] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-4)
    assert "x_note" not in rows[0]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-program {list}", "cannot run 'no-such-program'"),
        (python("import sys; sys.exit('no weights')", "{list}"), "status 1: no weights"),
        (python("print('{\"a\": 1}')", "{list}"), "1 lines of marks for 2 songs"),
        (python("print('{}')\nprint('{}')", "{list}"), "no number"),
        (python('print(\'{"song-0000": {"a": 1}}\')', "{folder}"), "no marks to song-0001"),
        (python("pass", "{folder}", "{scores}"), "left nothing"),
        (python("import os, sys; os.mkdir(sys.argv[1])", "{scores}", "{list}"), "0 JSON files"),
    ],
)
def test_a_failure_is_one_line(command: str, message: str) -> None:
    """Half of the marks, or marks of other songs, are worse than none."""
    scorer = Scorer.parse(f"x: {command}")
    rows: list[dict[str, object]] = [{}, {}]
    for row, wave_CN in zip(rows, waves(2), strict=True):
        scorer.add(wave_CN, row)
    scorer.finish()
    assert scorer.failure is not None
    assert message in scorer.failure
    assert rows == [{}, {}]


@pytest.mark.parametrize("text", ["audio-aes {jsonl}", "x:", "x: audio-aes", "x: 'a {list}"])
def test_what_is_no_scorer_is_refused_at_once(text: str) -> None:
    """Before an hour of listening."""
    with pytest.raises(ConfigError, match=r"--scorer"):
        Scorer.parse(text)


def test_marks_stand_in_the_table_of_songs(tmp_path: Path) -> None:
    """A row keeps what else was heard when the program fails, and the exit status says so."""
    folder = tmp_path / "songs"
    folder.mkdir()
    for place, wave_CN in enumerate(waves(3)):
        long_CN = np.tile(wave_CN, (1, 60))
        write_audio(folder / f"{place}.wav", long_CN, sample_rate_hz=44_100)
    scored = run_songs_eval(folder, scorer=f"loud: {python(LINES, '{jsonl}')}")
    assert [row["loud_PEAK"] for row in scored["songs"]] == pytest.approx([0.1, 0.2, 0.3], abs=1e-4)
    assert scored["means"]["songs"]["loud_PEAK"] == pytest.approx(0.2, abs=1e-4)
    assert "loud_PEAK" in scored["tables"][0]["columns"]
    assert not scored["failed"]
    failed = run_songs_eval(folder, scorer=f"loud: {python('x', '{jsonl}')}")
    assert "status 1" in failed["failed"][0]["error"]
    assert len(failed["songs"]) == 3
