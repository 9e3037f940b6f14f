"""Encoding a corpus into shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from khala.corpus import open_codes, open_corpus, prepare
from khala.corpus.prepare import Encoder
from khala.errors import CorpusError

HOP = 2048
Make = Callable[[Path, int], Path]


class FakeCodec:
    """Codes that are a checksum of each frame; can be told to die after some songs."""

    num_levels = 4
    codebook_size = 1024

    def __init__(self, dies_after: int | None = None, digest: str = "fake") -> None:
        self.digest = digest
        self.dies_after = dies_after
        self.num_calls = 0

    def encode(self, wave_CN: NDArray[np.float32]) -> NDArray[np.integer[Any]]:
        if self.num_calls == self.dies_after:
            raise KeyboardInterrupt
        self.num_calls += 1
        num_frames = -(-wave_CN.shape[1] // HOP)
        frames = np.array_split(wave_CN[0], num_frames)
        values = [hashlib.sha256(frame.tobytes()).digest()[:4] for frame in frames]
        return np.array([list(value) for value in values]).T * 3


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_goes_in_comes_out(tmp_path: Path, make_corpus: Make) -> None:
    """Codes of one song beside the lyrics of another would teach the models to mumble."""
    corpus = open_corpus(make_corpus(tmp_path / "corpus", 7))
    codec: Encoder = FakeCodec()
    seen = []
    out = prepare(
        corpus, tmp_path / "codes", codec, songs_per_shard=3, progress=lambda *x: seen.append(x)
    )
    codes = open_codes(out, corpus_dir=tmp_path / "corpus")
    assert len(codes) == 7
    assert codes.codec_digest == "fake"
    assert seen[-1] == (7, 7)
    for song, example in zip(corpus.songs, codes, strict=True):
        np.testing.assert_array_equal(example.codes_QT, codec.encode(corpus.read(song)))
        assert (example.id, example.lyrics, example.tags) == (song.id, song.lyrics, song.tags)
        assert example.truth_path == song.truth_path
    assert [example.id for example in codes.split("test")] == ["song-4"]


@pytest.mark.parametrize("dies_after", [0, 2, 3, 6])
def test_killed_and_started_again_gives_the_same_bytes(
    tmp_path: Path, make_corpus: Make, dies_after: int
) -> None:
    """A night of encoding must survive a power cut, and end as if it had never happened."""
    corpus = open_corpus(make_corpus(tmp_path / "corpus", 7))
    prepare(corpus, tmp_path / "whole", FakeCodec(), songs_per_shard=3)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, tmp_path / "cut", FakeCodec(dies_after), songs_per_shard=3)
    with pytest.raises(CorpusError, match="unfinished"):
        open_codes(tmp_path / "cut")
    again = FakeCodec()
    prepare(corpus, tmp_path / "cut", again, songs_per_shard=3)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert again.num_calls == 7 - dies_after // 3 * 3, "finished shards were encoded again"


def test_damage_is_found_and_mended(tmp_path: Path, make_corpus: Make) -> None:
    """A flipped bit in a shard would be a wrong sound that nobody could explain."""
    corpus = open_corpus(make_corpus(tmp_path / "corpus", 4))
    out = prepare(corpus, tmp_path / "codes", FakeCodec(), songs_per_shard=2)
    whole = content(out)
    path = out / "shard-00001.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(CorpusError, match="shard-00001"):
        open_codes(out)
    prepare(corpus, out, FakeCodec(), songs_per_shard=2)
    assert content(out) == whole
    path.unlink()
    with pytest.raises(CorpusError, match="missing"):
        open_codes(out)


def test_codes_of_two_codecs_never_mix(tmp_path: Path, make_corpus: Make) -> None:
    """Half a folder of another codec's codes is noise that looks like data."""
    corpus = open_corpus(make_corpus(tmp_path / "corpus", 2))
    prepare(corpus, tmp_path / "codes", FakeCodec())
    with pytest.raises(CorpusError, match="codec"):
        prepare(corpus, tmp_path / "codes", FakeCodec(digest="other"))


def test_bad_codes_are_refused(tmp_path: Path, make_corpus: Make) -> None:
    """A code outside its codebook would crash a training run days later."""
    corpus = open_corpus(make_corpus(tmp_path / "corpus", 1))
    codec = FakeCodec()
    codec.codebook_size = 10
    with pytest.raises(CorpusError, match="outside"):
        prepare(corpus, tmp_path / "codes", codec)
