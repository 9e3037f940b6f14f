"""Reading songs from disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from khala.corpus import open_corpus
from khala.errors import CorpusError

RATE_HZ = 44_100
Make = Callable[[Path, int], Path]


def test_crop_equals_the_same_part_of_the_whole(tmp_path: Path, make_corpus: Make) -> None:
    """A codec trained on shifted crops would learn sound that belongs to another moment."""
    corpus = open_corpus(make_corpus(tmp_path, 2))
    song = corpus.songs[1]
    whole_CN = corpus.read(song)
    crop_CN = corpus.read_crop(song, 1234, 2048)
    assert whole_CN.shape == (2, 26_460)
    assert crop_CN.dtype == np.float32
    np.testing.assert_array_equal(crop_CN, whole_CN[:, 1234:3282])
    np.testing.assert_array_equal(corpus.read_mix(song, 0.1, 0.05), whole_CN[:, 4410:6615])
    stem_CN = corpus.read_crop(song, 0, 100, "vocals")
    np.testing.assert_array_equal(stem_CN[0], stem_CN[1])
    assert corpus.num_samples(song) == 26_460


def test_crops_outside_a_song_are_refused(tmp_path: Path, make_corpus: Make) -> None:
    """Silent padding would teach that songs end in digital silence at random places."""
    corpus = open_corpus(make_corpus(tmp_path, 1))
    for start, count in ((25_000, 2048), (-1, 10)):
        with pytest.raises(CorpusError, match="outside"):
            corpus.read_crop(corpus.songs[0], start, count)
    with pytest.raises(CorpusError, match="no band"):
        corpus.read(corpus.songs[0], "band")


def test_splits_and_unfinished_songs(tmp_path: Path, make_corpus: Make) -> None:
    """A half-written song must not be trained on, and a test song never."""
    make_corpus(tmp_path, 5)
    (tmp_path / "songs" / "000002" / "song.json").unlink()
    corpus = open_corpus(tmp_path)
    assert [song.id for song in corpus.split("train")] == ["song-0", "song-1", "song-3"]
    assert [song.id for song in corpus.split("test")] == ["song-4"]
    assert corpus.songs[0].truth()["notes"] == [1, 2]
    with pytest.raises(CorpusError, match="no split"):
        corpus.split("tset")


def test_damaged_corpora_are_named(tmp_path: Path, make_corpus: Make) -> None:
    """Someone with a wrong folder must read which file is wrong, not a traceback."""
    with pytest.raises(CorpusError, match="no audio"):
        open_corpus(tmp_path)
    make_corpus(tmp_path, 1)
    path = tmp_path / "songs" / "000000" / "song.json"
    path.write_text('{"id": 1}')
    with pytest.raises(CorpusError, match=r"song\.json"):
        open_corpus(tmp_path)


def test_a_users_folder_is_a_corpus(tmp_path: Path) -> None:
    """People train on their own songs: a text beside the audio is all they need to write."""
    wave_NC = np.zeros((4410, 2), np.float32)
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"{name}.wav", wave_NC, RATE_HZ)
    (tmp_path / "a.txt").write_text("[Verse]\nla la")
    (tmp_path / "b.json").write_text('{"tags": "rock, loud", "instrumental": true}')
    songs = {song.id: song for song in open_corpus(tmp_path).songs}
    assert songs["a.wav"].lyrics == "[Verse]\nla la"
    assert not songs["a.wav"].instrumental
    assert songs["b.wav"].tags == ("rock", "loud")
    assert songs["c.wav"].instrumental
    (tmp_path / "c.json").write_text('{"tagz": []}')
    with pytest.raises(CorpusError, match="may hold only"):
        open_corpus(tmp_path)
