"""What a terminal shows of a run."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from khala.commands.training_view import drawn, sparkline
from khala.train.standing import Standing

STANDING = Standing(
    kind="backbone",
    unit="tokens",
    step=40,
    num_steps=100,
    losses={"loss": 3.25, "level_0": 3.5},
    grad_norm=0.5,
    lr=1e-3,
    per_s=12_345.6,
    mfu=0.41,
    left_s=61.0,
)


def shown(standing: Standing, course: list[float]) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(drawn(standing, course))
    return console.export_text()


def test_it_says_how_far_how_fast_and_how_well() -> None:
    """Who trains for hours looks once a while, and wants to know whether to wait."""
    text = shown(STANDING, [4.0, 3.5, 3.25])
    for words in ("step 40/100", "1:01 left", "loss 3.2500", "level_0 3.5", "12,346 tokens/s"):
        assert words in text
    assert "41% of what the machine can" in text
    assert "█▃▁" in text
    fresh = shown(Standing(kind="codec", unit="frames", step=0, num_steps=9), [])
    assert "step 0/9" in fresh
    assert "left" not in fresh
    assert sparkline([2.0, 2.0]) == "▁▁"


def test_a_terminal_sees_it_and_a_file_does_not(tmp_path: Path, codes_dir: Path) -> None:
    """Cursor movements in a log file are unreadable; lines on a terminal scroll away."""
    words = [
        *(sys.executable, "-m", "khala", "train", "backbone", "debug"),
        *("--codes", str(codes_dir), "--set", "train.num_steps=4", "--set", "train.log_every=1"),
    ]
    plain = subprocess.run(
        [*words, "--out", str(tmp_path / "a")], capture_output=True, text=True, check=True
    )
    assert "\x1b" not in plain.stderr
    assert "step 4/4  loss" in plain.stderr
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*words, "--out", str(tmp_path / "b")], stderr=theirs, stdout=subprocess.DEVNULL
    ) as live:
        os.close(theirs)
        text = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            text += piece
    os.close(ours)
    assert live.returncode == 0
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode())
    assert "step 4/4" in seen
    assert "tokens/s" in seen
    assert "step 4/4  loss" not in seen
    assert re.search(r"khala: step 4 valid", seen), "messages stand above the view"
