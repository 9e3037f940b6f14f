"""The scripts that people copy from."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from khala.audio import read_audio, write_audio
from khala.song import SongRequest
from khala.tokens import sections

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def run(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_make_song(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first Python anybody copies makes a song."""
    run("make_song.py", tiny_model, tmp_path / "a.wav", monkeypatch=monkeypatch)
    assert read_audio(tmp_path / "a.wav").shape[1] > 7 * 44_100
    assert (tmp_path / "a.khala").is_file()


def test_sketches(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sketching and finishing works as shown."""
    run("sketch_then_finish.py", tiny_model, tmp_path, monkeypatch=monkeypatch)
    assert len(list(tmp_path.glob("*.wav"))) == 5
    finished, other = (tmp_path / f"{name}.wav" for name in ("finished", "other-details"))
    assert finished.read_bytes() != other.read_bytes()


def test_compress(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording becomes codes and several depths of sound."""
    wave = 0.1 * np.random.default_rng(0).normal(size=(2, 44_100)).clip(-3, 3).astype(np.float32)
    write_audio(tmp_path / "in.wav", wave, sample_rate_hz=44_100)
    run("compress.py", tmp_path / "in.wav", tiny_model, tmp_path, monkeypatch=monkeypatch)
    assert sorted(path.name for path in tmp_path.glob("in-*.wav")) == [
        "in-2.wav",
        "in-4.wav",
        "in-8.wav",
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_short(path: Path) -> None:
    """An example is read at a glance."""
    assert len(path.read_text().splitlines()) < 40


def test_lyrics() -> None:
    """The lyrics of the README fit a song of 30 s and have sections."""
    text = (EXAMPLES / "song.txt").read_text()
    SongRequest(lyrics=text)
    assert [section.name for section in sections(text)][:2] == ["Verse", "Chorus"]
    words = sum(len(line.split()) for section in sections(text) for line in section.lines)
    assert words / 30 < 3.5


def test_lyrics_are_words_the_demo_corpus_teaches() -> None:
    """The first song anybody makes is not one whose words the bundled model has never heard."""
    from khala.synth.lexicon import load_lexicon

    known = load_lexicon().words
    for section in sections((EXAMPLES / "song.txt").read_text()):
        for word in " ".join(section.lines).split():
            found = known.get(word) or known.get(word.lower())
            assert found is not None, word
            assert not found.held_out, word
