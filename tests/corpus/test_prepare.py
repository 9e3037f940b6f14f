"""Songs into shards: whole or refused, once, and the same bytes however often it was killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from khala.audio import write_audio
from khala.corpus import (
    Processes,
    RayCluster,
    SongLimits,
    find_items,
    open_codes,
    open_corpus,
    prepare,
)
from khala.corpus.reading import ShardReader
from khala.errors import ConfigError, CorpusError

HOP = 2048
RATE_HZ = 44_100
SHORT = SongLimits(min_s=0.3)
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


def encoded(source: Path, out: Path, codec: FakeCodec | None = None, **changes: Any) -> Any:
    codec = FakeCodec() if codec is None else codec
    settings = {"limits": SHORT, "songs_per_shard": 3, **changes}
    return prepare(find_items(source), out, lambda: codec, **settings)


def tune(seed: int, seconds: float = 8.0) -> NDArray[np.float32]:
    """Return notes that no other seed has."""
    generator = np.random.default_rng(seed)
    times_N = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave_N = np.zeros(times_N.size)
    for start_s in np.arange(0, seconds, 0.25):
        playing_N = (times_N >= start_s) * np.exp(-4 * np.maximum(0, times_N - start_s))
        hz = 220 * 2 ** (generator.integers(0, 36) / 12)
        wave_N += 0.1 * playing_N * np.sin(2 * np.pi * hz * times_N)
    wave_N += generator.normal(0, 0.003, times_N.size)
    return np.stack([wave_N, 0.8 * wave_N]).astype(np.float32)


def test_what_goes_in_comes_out(tmp_path: Path, make_corpus: Make) -> None:
    """Codes of one song beside the lyrics of another would teach the models to mumble."""
    corpus = open_corpus(make_corpus(tmp_path / "corpus", 7))
    codec, seen = FakeCodec(), []
    report = encoded(
        tmp_path / "corpus", tmp_path / "codes", codec, progress=lambda *x: seen.append(x)
    )
    codes = open_codes(tmp_path / "codes", corpus_dir=tmp_path / "corpus")
    assert len(codes) == report.num_songs == 7
    assert codes.codec_digest == "fake"
    assert seen == [(done, 7) for done in range(8)]
    for song, example in zip(corpus.songs, codes, strict=True):
        np.testing.assert_array_equal(example.codes_QT, codec.encode(corpus.read(song)))
        assert example.num_frames == example.codes_QT.shape[1]
        assert (example.id, example.lyrics, example.tags) == (song.id, song.lyrics, song.tags)
        assert example.truth_path == song.truth_path
        cut = example.codes.cut(2, 7)
        np.testing.assert_array_equal(cut.array(), example.codes_QT[:, 2:7])
        np.testing.assert_array_equal(cut.cut(1, 99).array(), example.codes_QT[:, 3:7])
    assert [example.id for example in codes.split("test")] == ["song-4"]


@pytest.mark.parametrize("dies_after", [0, 2, 3, 6])
def test_killed_and_started_again_gives_the_same_bytes(
    tmp_path: Path, make_corpus: Make, dies_after: int
) -> None:
    """A night of encoding must survive a power cut, and end as if it had never happened."""
    corpus = make_corpus(tmp_path / "corpus", 7)
    encoded(corpus, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        encoded(corpus, tmp_path / "cut", FakeCodec(dies_after))
    with pytest.raises(CorpusError, match="unfinished"):
        open_codes(tmp_path / "cut")
    again = FakeCodec()
    encoded(corpus, tmp_path / "cut", again)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert again.num_calls == 7 - dies_after // 3 * 3, "finished shards were encoded again"


def test_killed_at_any_moment(tmp_path: Path, make_corpus: Make) -> None:
    """Killed for good, while anything is half written, by a signal that nothing can catch."""
    corpus = make_corpus(tmp_path / "corpus", 8)
    encoded(corpus, tmp_path / "whole", songs_per_shard=1)
    code = (
        "import sys, time\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "from test_prepare import *\n"
        "class Slow(FakeCodec):\n"
        "    def encode(self, wave_CN):\n"
        "        time.sleep(0.01)\n"
        "        return super().encode(wave_CN)\n"
        "encoded(Path(sys.argv[1]), Path(sys.argv[2]), Slow(), songs_per_shard=1)\n"
    )
    words = [
        sys.executable,
        "-c",
        code,
        str(corpus),
        str(tmp_path / "cut"),
        str(Path(__file__).parent),
    ]
    generator = random.Random(0)
    killed = 0
    for _ in range(6):
        running = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        while not (tmp_path / "cut").exists() and running.poll() is None:
            time.sleep(0.005)
        time.sleep(generator.uniform(0.0, 0.12))
        if running.poll() is None:
            running.send_signal(signal.SIGKILL)
            killed += 1
        running.wait()
    assert killed >= 2
    encoded(corpus, tmp_path / "cut", songs_per_shard=1)
    assert content(tmp_path / "cut").keys() - content(tmp_path / "whole").keys() <= {
        name for name in content(tmp_path / "cut") if name.endswith(".tmp")
    }
    for name, data in content(tmp_path / "whole").items():
        assert content(tmp_path / "cut")[name] == data, name


def test_several_processes_write_what_one_writes(tmp_path: Path, make_corpus: Make) -> None:
    """A folder that depends on who worked on it could not be gone on with by another number."""
    corpus = make_corpus(tmp_path / "corpus", 2)
    encoded(corpus, tmp_path / "one", songs_per_shard=1)
    source = find_items(corpus)
    prepare(
        source, tmp_path / "two", FakeCodec, limits=SHORT, songs_per_shard=1, engine=Processes(9)
    )
    assert content(tmp_path / "one") == content(tmp_path / "two")
    with pytest.raises(ConfigError, match="1 to 256"):
        Processes(0)


def test_a_real_ray_cluster_writes_the_same(
    tmp_path: Path, make_corpus: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many machines are one more way to call the same function."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # the fake codec lives here
    corpus = make_corpus(tmp_path / "corpus", 2)
    encoded(corpus, tmp_path / "one", songs_per_shard=1)
    cluster = RayCluster("local")
    open_fake = partial(FakeCodec)
    prepare(
        find_items(corpus), tmp_path / "ray", open_fake, limits=SHORT, songs_per_shard=1,
        engine=cluster,
    )  # fmt: skip
    assert content(tmp_path / "one") == content(tmp_path / "ray")


def test_damage_is_found_and_mended(tmp_path: Path, make_corpus: Make) -> None:
    """A flipped bit in a shard would be a wrong sound that nobody could explain."""
    corpus, out = make_corpus(tmp_path / "corpus", 6), tmp_path / "codes"
    encoded(corpus, out)
    whole = content(out)
    for name in ("shard-00001.parquet", "index.parquet"):
        damaged = bytearray(whole[name])
        damaged[len(damaged) // 2] ^= 4
        (out / name).write_bytes(damaged)
        with pytest.raises(CorpusError, match=f"damaged: .*{name}"):
            open_codes(out)
        encoded(corpus, out)
        assert content(out) == whole
    (out / "shard-00001.parquet").unlink()
    with pytest.raises(CorpusError, match=r"missing: .*shard-00001\.parquet"):
        open_codes(out)
    (out / "manifest.json").write_text('{"format": 3}')
    with pytest.raises(CorpusError, match="another version"):
        open_codes(out)


def test_codes_of_two_codecs_or_sources_never_mix(tmp_path: Path, make_corpus: Make) -> None:
    """Half a folder of another codec's codes is noise that looks like data."""
    corpus = make_corpus(tmp_path / "corpus", 2)
    encoded(corpus, tmp_path / "codes")
    with pytest.raises(CorpusError, match="codec"):
        encoded(corpus, tmp_path / "codes", FakeCodec(digest="other"))
    make_corpus(tmp_path / "more", 3)
    with pytest.raises(CorpusError, match="inputs_sha256"):
        encoded(tmp_path / "more", tmp_path / "codes")


def test_bad_codes_end_the_work(tmp_path: Path, make_corpus: Make) -> None:
    """A code outside its codebook would crash a training run days later."""
    codec = FakeCodec()
    codec.codebook_size = 10
    with pytest.raises(CorpusError, match="outside"):
        encoded(make_corpus(tmp_path / "corpus", 1), tmp_path / "codes", codec)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Write a folder as people have them: three songs, and everything that can be wrong."""
    folder = tmp_path / "mine"
    (folder / "album").mkdir(parents=True)
    write_audio(folder / "album/a.flac", tune(1), sample_rate_hz=RATE_HZ)
    (folder / "album/a.txt").write_text("[Verse 1]\nla la la\n")
    (folder / "album/a.json").write_text('{"tags": "pop, piano", "description": "Mine."}')
    write_audio(folder / "b.mp3", tune(2), sample_rate_hz=RATE_HZ)
    (folder / "b.lrc").write_text(
        "[ar: me]\n[Verse]\n[00:01.00]so <00:01.50>long\n\n[00:03.10]gone\n"
    )
    (folder / "b.tags.txt").write_text("rock\nguitar")
    write_audio(folder / "c.opus", tune(3), sample_rate_hz=RATE_HZ)
    # the first song again: louder, without its first second, and through a lossy codec
    write_audio(folder / "d.mp3", 1.3 * tune(1)[:, RATE_HZ:], sample_rate_hz=RATE_HZ)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.flac").write_text("not a sound")
    data = (folder / "b.mp3").read_bytes()
    (folder / "truncated.mp3").write_bytes(data[: len(data) // 2])
    write_audio(folder / "silent.wav", 0 * tune(4), sample_rate_hz=RATE_HZ)
    write_audio(folder / "quiet.wav", 0.04 * tune(5), sample_rate_hz=RATE_HZ)
    write_audio(folder / "short.wav", tune(6, 0.2), sample_rate_hz=RATE_HZ)
    for name, text in (("latin", "café".encode("latin-1")), ("moji", "caf\u00c3\u00a9".encode())):
        write_audio(folder / f"{name}.wav", tune(7), sample_rate_hz=RATE_HZ)
        (folder / f"{name}.txt").write_bytes(text)
    write_audio(folder / "typo.wav", tune(8), sample_rate_hz=RATE_HZ)
    (folder / "typo.json").write_text('{"tgas": ["pop"]}')
    (folder / "nobody.txt").write_text("words of no song")
    return folder


def test_a_folder_as_people_have_them(mixed: Path, tmp_path: Path) -> None:
    """Everything that cannot be learned from is named with its reason; the rest is taken."""
    report = encoded(mixed, tmp_path / "codes")
    codes = {example.id: example for example in open_codes(tmp_path / "codes")}
    assert set(codes) == {"album/a.flac", "b.mp3", "c.opus"}
    assert codes["album/a.flac"].tags == ("pop", "piano")
    assert codes["album/a.flac"].lyrics == "[Verse 1]\nla la la"
    assert codes["b.mp3"].lyrics == "[Verse]\nso long\n\ngone"
    assert codes["b.mp3"].tags == ("rock", "guitar")
    assert codes["c.opus"].instrumental
    assert codes["c.opus"].duration_s == pytest.approx(8.0, abs=0.1)
    refused = {one.id: (one.why, one.detail) for one in report.refused}
    wanted = {
        "d.mp3": ("duplicate", "same recording as album/a.flac"),
        "empty.wav": ("audio", "0 bytes"),
        "text.flac": ("audio", "not audio"),
        "truncated.mp3": ("audio", "cut short"),
        "silent.wav": ("silence", "100% silent"),
        "quiet.wav": ("loudness", "LUFS"),
        "short.wav": ("length", "0.2 s long"),
        "latin.wav": ("text", "latin.txt is not UTF-8: byte 0xe9 at 3"),
        "moji.wav": ("text", "once read as Latin-1"),
        "typo.wav": ("text", "typo.json may hold only"),
    }
    assert refused.keys() == wanted.keys()
    for name, (why, part) in wanted.items():
        assert refused[name][0] == why, name
        assert part in refused[name][1], name
    assert report.unused == ("nobody.txt",)
    written = json.loads((tmp_path / "codes/report.json").read_text())
    assert written["refused_for"] == report.by_reason()
    assert str(tmp_path) not in json.dumps(written)
    kept = encoded(mixed, tmp_path / "twice", keep_duplicates=True)
    assert kept.num_songs == 4


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    """An empty training set would be noticed after an hour."""
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(CorpusError, match="no audio file"):
        find_items(folder)
    write_audio(folder / "a.wav", 0 * tune(1), sample_rate_hz=RATE_HZ)
    with pytest.raises(CorpusError, match=r"no song can be taken: 1 refused.*silent"):
        encoded(folder, tmp_path / "codes")


def test_a_full_disk_names_the_file_and_keeps_what_was_sealed(
    tmp_path: Path, make_corpus: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finished half of a night's work stays, and goes on when there is room."""
    corpus = make_corpus(tmp_path / "corpus", 4)
    real, left = os.fsync, [9]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        encoded(corpus, tmp_path / "codes", songs_per_shard=1)
    assert "codes/shard-" in str(caught.value.filename)
    monkeypatch.undo()
    again = FakeCodec()
    encoded(corpus, tmp_path / "codes", again, songs_per_shard=1)
    assert again.num_calls == 2
    encoded(corpus, tmp_path / "whole", songs_per_shard=1)
    assert content(tmp_path / "codes") == content(tmp_path / "whole")


def test_songs_from_and_to_an_object_store(mixed: Path, tmp_path: Path) -> None:
    """The same songs behind a URL give the same shards; a damaged one is found when fetched."""
    pytest.importorskip("obstore")
    (tmp_path / "store").mkdir()
    report = prepare(
        find_items(f"file://{mixed}"), f"file://{tmp_path}/store", FakeCodec, limits=SHORT,
        songs_per_shard=3,
    )  # fmt: skip
    encoded(mixed, tmp_path / "codes")
    assert report.num_songs == 3
    plain, stored = content(tmp_path / "codes"), content(tmp_path / "store")
    shards = [name for name in plain if "parquet" in name]
    assert len(shards) == 11
    assert all(plain[name] == stored[name] for name in shards)
    far = open_codes(f"file://{tmp_path}/store")
    files = json.loads(plain["manifest.json"])["files"]
    reader = ShardReader(far[0].codes.reader._place, files, num_levels=4, cache=tmp_path / "cache")
    for example, near in zip(far, open_codes(tmp_path / "codes"), strict=True):
        stored_codes = example.codes
        codes_QT = reader.codes(stored_codes.file, stored_codes.row)  # type: ignore[union-attr]
        np.testing.assert_array_equal(codes_QT, near.codes_QT)
    name = "shard-00000.parquet"
    damaged = bytearray(stored[name])
    damaged[10] ^= 1
    (tmp_path / "store" / name).write_bytes(damaged)
    fresh = ShardReader(far[0].codes.reader._place, files, num_levels=4, cache=tmp_path / "other")
    with pytest.raises(CorpusError, match="a shard is damaged"):
        fresh.codes(name, 0)


def test_memory_for_codes_is_bounded(tmp_path: Path, make_corpus: Make) -> None:
    """A hundred thousand songs must not fill the memory of whoever trains on them."""
    encoded(make_corpus(tmp_path / "corpus", 6), tmp_path / "codes")
    codes = open_codes(tmp_path / "codes")
    reader = codes[0].codes.reader  # type: ignore[union-attr]
    size = codes[0].codes_QT.nbytes
    reader._max_kept_bytes = 2 * size
    whole = [example.codes_QT.copy() for example in codes]
    assert reader._kept_bytes <= 2 * size
    for example, codes_QT in zip(codes, whole, strict=True):
        np.testing.assert_array_equal(example.codes_QT, codes_QT)
