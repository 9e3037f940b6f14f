"""The whole way, through the commands a user types: songs, three models, a song of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from khala import Song
from khala.audio import read_audio
from khala.cli import main


def test_from_nothing_to_a_song(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who follows the README's training section ends with a model that makes songs."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    for line in (
        "synth --hours 0.02 --tiny --stems --seed 1 --workers 1 --out corpus",
        "train codec debug --corpus corpus --out runs/codec",
        "prepare corpus --codec runs/codec/model --out codes",
        "train backbone debug --codes codes --out runs/backbone",
        "train superres debug --codes codes --init runs/backbone/model"
        " --codec runs/codec/model --out runs/superres",
        "assemble --codec runs/codec/model --backbone runs/backbone/model"
        " --superres runs/superres/model --out model",
        "generate --model model --lyrics la --duration 3 --seed 7 --out song.wav",
        "verify song.khala",
        "encode corpus/songs/000000/mix.flac recording.khala --model model --levels 8",
        "decode recording.khala recording.mp3",
    ):
        status = main([*line.split(), "--quiet", "--json"])
        captured = capsys.readouterr()
        assert status == 0, f"khala {line}: {captured.err}"
        json.loads(captured.out)
    song = Song.load("song.khala")
    assert song.num_levels == 64
    assert read_audio("song.wav").shape[1] == song.num_frames * 2_048
    assert read_audio("recording.mp3").shape[1] > 44_100
