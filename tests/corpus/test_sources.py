"""What is said of songs: by files beside them, or by a manifest; and nothing guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from khala.audio import write_audio
from khala.corpus.describe import describe_item, without_times
from khala.corpus.places import open_place
from khala.corpus.sources import find_items
from khala.errors import ConfigError, CorpusError


def sound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, np.zeros((2, 1000), np.float32), sample_rate_hz=44_100)


def described(source: Any) -> list[Any]:
    return [describe_item(source.place, item) for item in source.items]


def test_a_manifest_lists_songs(tmp_path: Path) -> None:
    """Who already has a table of songs should not have to write a thousand files."""
    sound(tmp_path / "a/one.flac")
    (tmp_path / "words.txt").write_text("la la")
    rows = [
        {"audio": "a/one.flac", "lyrics_file": "words.txt", "tags": ["pop"], "split": "test"},
        {"audio": "b/two.mp3", "id": "two", "instrumental": True, "language": "zh"},
    ]
    path = tmp_path / "songs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8-sig")
    one, two = described(find_items(path))
    assert (one.id, one.lyrics, one.tags, one.split) == ("a/one.flac", "la la", ("pop",), "test")
    assert (two.id, two.instrumental, two.language) == ("two", True, "zh")
    table = tmp_path / "songs.csv"
    table.write_text('audio,tags,lyrics,instrumental\na/one.flac,"pop, rock",la,\nb.mp3,,,yes\n')
    one, two = described(find_items(table))
    assert (one.tags, one.lyrics, one.instrumental) == (("pop", "rock"), "la", False)
    assert (two.tags, two.instrumental) == ((), True)
    before = find_items(table).digest()
    table.write_text(table.read_text().replace("rock", "folk"))
    assert find_items(table).digest() != before, "other words are another source"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"audio": "x.wav"}\n{"audio"', "line 2 is not JSON"),
        ("a.jsonl", "[1]", "line 1 must hold a JSON object"),
        ("a.jsonl", '{"audio": "x.wav", "lyrcs": "la"}', "no key 'lyrcs'; nearest: lyrics"),
        ("a.jsonl", '{"lyrics": "la"}', 'names no "audio"'),
        ("a.jsonl", '{"audio": "../x.wav"}', "beside the manifest or below"),
        ("a.jsonl", '{"audio": "/etc/x.wav"}', "beside the manifest or below"),
        ("a.jsonl", '{"audio": "http://x/y.wav"}', "beside the manifest or below"),
        ("a.jsonl", '{"audio": "x.wav", "lyrics_file": "../y"}', "beside the manifest or below"),
        ("a.jsonl", '{"audio": "x.wav"}\n{"audio": "x.wav"}', "two songs 'x.wav'"),
        ("a.jsonl", "\n", "lists no song"),
        ("a.csv", "audio,tags\nx.wav,a,b\n", "line 2 has more cells"),
        ("a.csv", "audio,tgas\nx.wav,a\n", "nearest: tags"),
    ],
)
def test_a_wrong_manifest_is_refused_at_its_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    """A typo in a column's name would quietly lose every lyric."""
    (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError, match=message):
        find_items(tmp_path / name)
    (tmp_path / name).write_bytes(b"caf\xe9")
    with pytest.raises(CorpusError, match="not UTF-8: byte 3"):
        find_items(tmp_path / name)


@pytest.mark.parametrize(
    ("json_text", "message"),
    [
        ('{"instrumental": "no"}', "instrumental must be true or false"),
        ('{"instrumental": false}', "has no lyrics"),
        ('{"split": "valid"}', "no split 'valid'"),
        ('{"tags": 3}', "tags must be a list or a text"),
        ('{"tags": [3]}', "a tag must be a text"),
        ('{"lyrics": "a\\u0000b"}', r"U\+0000"),
        ('{"description": "x\\ud800"}', r"U\+D800"),
        ('{"lyrics": 5}', "lyrics must be a text"),
        ("[]", "JSON object"),
        ("{", "not JSON"),
        ('{"lyrics": "' + "a" * 60_000 + '"}', "60000 characters; allowed: 50000"),
    ],
)
def test_a_wrong_sidecar_is_named(tmp_path: Path, json_text: str, message: str) -> None:
    """One bad text costs its song, and says which and why."""
    sound(tmp_path / "x.wav")
    (tmp_path / "x.json").write_text(json_text)
    with pytest.raises(CorpusError, match=message):
        described(find_items(tmp_path))


def test_lyrics_with_times_become_lyrics() -> None:
    """A model that learned to sing "zero one forty" would be no help."""
    text = "[ti:Song]\n[00:00.10][Verse 1]\n[00:01.00]<00:01.00>One <00:01.50>two\n[00:09]\n\n\nOh"
    assert without_times(text) == "[Verse 1]\nOne  two\n\nOh".replace("One  two", "One two")


def test_places_that_are_not_there(tmp_path: Path) -> None:
    """Before anything is encoded."""
    with pytest.raises(CorpusError, match="no folder"):
        find_items(tmp_path / "none")
    pytest.importorskip("obstore")
    with pytest.raises(CorpusError, match="cannot open"):
        open_place("zz://nowhere/at/all")
    store = open_place(f"file://{tmp_path}")
    store.write("a/b.txt", b"text")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/c.txt").write_text("no")
    assert [one.name for one in store.files()] == ["a/b.txt"]
    assert store.read("a/b.txt") == b"text"
    assert store.has("a/b.txt")
    assert not store.has("a/c.txt")
    assert not store.holds("a/c.txt", "", 4)
    assert store.holds("a/b.txt", "", 4)
    with pytest.raises(CorpusError, match=r"cannot read .*a/c\.txt"):
        store.read("a/c.txt")


def test_without_obstore_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optional library that is missing is one line."""
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"khala\[train\]"):
        open_place("s3://bucket")
