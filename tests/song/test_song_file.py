"""The .khala file: everything of a song comes back, and nothing else passes for it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from khala.errors import AudioError, CheckpointError, KhalaError, RequestError, TokenError
from khala.song import Song, SongRequest
from khala.song.file import MAX_FILE_BYTES, pack_codes, unpack_codes

REQUEST = SongRequest(lyrics="[Vers]\nGr\u00fc\u00dfe \u4f60\u597d \U0001f600", seed=7)
tables = hnp.arrays(
    np.int16, st.tuples(st.integers(1, 8), st.integers(1, 9)), elements=st.integers(0, 1023)
)


def song_of(codes_QT: npt.NDArray[Any], **fields: Any) -> Song:
    """A small song around ``codes_QT``."""
    given_fields = {"request": REQUEST, "seed": 7, "model": "nano", "digests": {"codec": "ab" * 32}}
    return Song(codes_QT=codes_QT, **{**given_fields, **fields})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A saved song of two levels and three frames."""
    return song_of(np.array([[1, 2, 3], [1023, 0, 512]])).save(tmp_path / "a.khala")


@given(tables)
def test_packing_round_trips(codes_QT: npt.NDArray[np.int16]) -> None:
    """One wrong code is a click, or another voice."""
    packed = pack_codes(codes_QT)
    assert packed.size == -(-codes_QT.size * 10 // 8)
    assert np.array_equal(unpack_codes(packed, *codes_QT.shape), codes_QT)


@given(tables)
def test_packing_is_the_plain_string_of_bits(codes_QT: npt.NDArray[np.int16]) -> None:
    """A reader in another language, written from the docs, must find the same codes."""
    number = sum(int(code) << 10 * index for index, code in enumerate(codes_QT.reshape(-1)))
    num_bytes = -(-codes_QT.size * 10 // 8)
    assert pack_codes(codes_QT).tobytes() == number.to_bytes(num_bytes, "little")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(codes_QT=tables, lyrics=st.text(max_size=80), ended=st.sampled_from(["limit", "cancelled"]))
def test_save_and_load(
    tmp_path: Path, codes_QT: npt.NDArray[np.int16], lyrics: str, ended: str
) -> None:
    """A song that comes back changed cannot be refined or replayed."""
    song = song_of(codes_QT, lyrics=lyrics, ended=ended)
    again = Song.load(song.save(tmp_path / "a.khala"))
    assert np.array_equal(again.codes_QT, song.codes_QT)
    assert again.codes_QT.dtype == np.int16
    for name in ("request", "seed", "model", "digests", "lyrics", "created", "ended", "hop"):
        assert getattr(again, name) == getattr(song, name)
    assert again.duration_s == codes_QT.shape[1] * 2048 / 44100


def test_same_song_same_bytes(tmp_path: Path) -> None:
    """Two copies of a song could not be told from two songs."""
    song = song_of(np.zeros((2, 5), dtype=np.int16))
    first, second = song.save(tmp_path / "a.khala"), song.save(tmp_path / "b.khala")
    assert first.read_bytes() == second.read_bytes()


def test_songs_made_as_published_say_so(tmp_path: Path) -> None:
    """A song made with another program's defects would otherwise be replayed without them."""
    song = song_of(np.zeros((2, 5), dtype=np.int16), compat="published-natural")
    assert Song.load(song.save(tmp_path / "a.khala")).compat == "published-natural"
    recording = Song.from_recording(song.codes_QT, model="nano", digests={}, compat="published")
    assert Song.load(recording.save(tmp_path / "b.khala")).compat == "published"


def test_all_other_songs_have_the_bytes_they_always_had(tmp_path: Path) -> None:
    """A song file of last year must load, and one of today must load in last year's Khala."""
    song = song_of(np.array([[1, 2, 3], [1023, 0, 512]]), created="")
    content = song.save(tmp_path / "a.khala").read_bytes()
    assert hashlib.sha256(content).hexdigest() == (
        "9a6a0d6232c6dd8924cc38f879969850072d0fdd0e157bb8931ab0e537125fa5"
    )
    assert b"compat" not in content
    assert Song.load(tmp_path / "a.khala").compat == "none"


def test_it_is_a_safetensors_file(small: Path) -> None:
    """A user must be able to open their own song with a common library."""
    packed = safetensors.numpy.load_file(small)["codes"]
    assert np.array_equal(unpack_codes(packed, 2, 3), [[1, 2, 3], [1023, 0, 512]])


def test_every_changed_byte_is_noticed(small: Path) -> None:
    """A damaged disk would play as another song, and nobody would know why."""
    content = small.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        small.write_bytes(changed)
        with pytest.raises(AudioError):
            Song.load(small)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_random_damage_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    """The same for any other value of a byte, and for a song of real size."""
    path = tmp_path / "a.khala"
    rng = np.random.default_rng(0)
    content = bytearray(song_of(rng.integers(0, 1024, (64, 100))).save(path).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        Song.load(path)
    assert str(caught.value).isprintable()


def test_truncated_and_longer_files_are_noticed(small: Path) -> None:
    """A download that stopped half way would play as a short song."""
    content = small.read_bytes()
    for length in range(len(content)):
        small.write_bytes(content[:length])
        with pytest.raises(AudioError):
            Song.load(small)
    small.write_bytes(content + b"\0")
    with pytest.raises(AudioError):
        Song.load(small)


def signed(header: bytes, codes: bytes = b"\0" * 3) -> bytes:
    """A file with a right digest around any header: what a stranger can make."""
    header = b'{"__metadata__":{"sha256":"' + b"0" * 64 + header
    content = len(header).to_bytes(8, "little") + header + codes
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF....WAVEfmt ",
        np.random.default_rng(0).bytes(4096),
        b"\xff" * 8 + b'{"__metadata__":{"sha256":"' + b"0" * 100,
        signed(b""),
        signed(b'","khala":"' + b"[" * 100_000 + b'"}}'),
        signed(b'","khala":' + b"[" * 100_000 + b'"}}'),
        signed(b'","khala":"[]"},"codes":{}}'),
        signed(b'","khala":"{}"},"codes":{}}'),
        signed(b'","khala":"{\\"format\\":2}"},"codes":{}}'),
        signed(
            b'","khala":"{\\"format\\":1,\\"num_levels\\":64,\\"num_frames\\":1e99}"},"codes":{}}'
        ),
        signed(
            b'","khala":"{\\"format\\":1,\\"num_levels\\":64,\\"num_frames\\":99999}"},"codes":{}}'
        ),
    ],
    ids=range(12),
)
def test_garbage_gives_one_error(tmp_path: Path, content: bytes) -> None:
    """A file from a stranger would crash the player, or fill its memory."""
    path = tmp_path / "a.khala"
    path.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        Song.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_oversized_file_is_not_read(tmp_path: Path) -> None:
    """A file of a terabyte named .khala would take the machine down."""
    path = tmp_path / "big.khala"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(AudioError, match=f"at most {MAX_FILE_BYTES}"):
        Song.load(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    """A wrong path gives one line, not a traceback."""
    for path in (tmp_path / "no.khala", tmp_path):
        with pytest.raises(AudioError, match="cannot read"):
            Song.load(path)


def test_save_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk would leave half a song where a whole one was."""
    path = song_of(np.zeros((2, 2), dtype=np.int16)).save(tmp_path / "a.khala")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AudioError, match="No space left"):
        song_of(np.ones((2, 9), dtype=np.int16)).save(path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.khala"]


def test_saving_too_much_text_is_refused(tmp_path: Path) -> None:
    """A file that can be written and never read again is a lost song."""
    song = song_of(np.zeros((2, 2), dtype=np.int16), lyrics="a" * 2**20)
    with pytest.raises(AudioError, match="at most"):
        song.save(tmp_path / "a.khala")


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((2, 3), dtype=np.float32),
        np.zeros(3, dtype=np.int16),
        np.zeros((65, 3), dtype=np.int16),
        np.zeros((2, 0), dtype=np.int16),
        np.array([[0, 1024]]),
        np.array([[-1, 0]]),
        np.array([[70_000]]),
    ],
    ids=range(7),
)
def test_codes_are_checked(codes: npt.NDArray[Any]) -> None:
    """Codes outside the codebook would sound as noise, or crash the decoder."""
    with pytest.raises(TokenError):
        song_of(codes)
    with pytest.raises(KhalaError):
        Song.from_recording(codes, model="nano", digests={})


@pytest.mark.parametrize(
    "fields",
    [
        {"ended": "nearly"},
        {"seed": -1},
        {"hop": 0},
        {"digests": []},
        {"model": None},
        {"compat": "publisht"},
        {"compat": None},
    ],
)
def test_other_fields_are_checked(fields: dict[str, Any]) -> None:
    """A song that says nonsense about itself cannot be replayed."""
    with pytest.raises(RequestError):
        song_of(np.zeros((2, 2), dtype=np.int16), **fields)


@pytest.mark.parametrize("num_frames", [1, 400, 20_000])
def test_recordings_of_any_length(tmp_path: Path, num_frames: int) -> None:
    """A sound of half a second or of an hour can be encoded too."""
    codes_QT = np.zeros((64, num_frames), dtype=np.int64)
    song = Song.from_recording(codes_QT, model="nano", digests={})
    again = Song.load(song.save(tmp_path / "a.khala"))
    assert (again.ended, again.num_levels, again.num_frames) == ("recording", 64, num_frames)


class FakeCodec:
    """Answers with the number of levels it was given."""

    def parameters(self) -> Any:
        """One parameter, to say where the codec is."""
        import torch

        yield torch.zeros(1)

    def decode(self, codes_BkT: Any) -> Any:
        """Return two channels of 2048 samples a frame."""
        batch, levels, frames = codes_BkT.shape
        return codes_BkT.new_full((batch, 2, frames * 2048), levels).float()


def test_waveform_of_some_levels() -> None:
    """Any prefix of levels is a song: the preview a user hears before the master is done."""
    song = song_of(np.zeros((8, 3), dtype=np.int16))
    codec: Any = FakeCodec()
    for levels, expected in ((None, 8), (1, 1), (8, 8)):
        wave_CN = song.waveform(levels, codec)
        assert wave_CN.shape == (2, 3 * 2048)
        assert wave_CN.dtype == np.float32
        assert (wave_CN == expected).all()
    for levels in (0, 9):
        with pytest.raises(RequestError, match="1 to 8"):
            song.waveform(levels, codec)


def test_waveform_by_the_codec_of_its_model(tmp_path: Path) -> None:
    """A song must sound as it was made, or say that the codec it needs is gone."""
    from khala.codec import Codec, CodecConfig, ConvConfig, QuantizerConfig

    config = CodecConfig(
        hop=64,
        conv=ConvConfig(
            encoder_filters=2,
            encoder_strides=(4, 4, 4),
            decoder_filters=2,
            decoder_strides=(4, 4, 4),
        ),
        quantizer=QuantizerConfig(num_levels=5, codebook_size=16, latent_width=6),
    )
    codec = Codec(config).eval()
    digest = codec.save(tmp_path / "model" / "codec")
    codes_QT = np.zeros((config.quantizer.num_levels, 2), dtype=np.int16)
    place = {"model": str(tmp_path / "model"), "hop": config.hop}
    song = song_of(codes_QT, digests={"codec": digest}, **place)
    assert song.waveform().shape == (config.channels, song.num_frames * config.hop)
    other = song_of(codes_QT, digests={"codec": "0" * 64}, **place)
    with pytest.raises(CheckpointError, match="is not the one that made this song"):
        other.waveform()


def test_bytes_and_files_are_the_same_song(tmp_path: Path) -> None:
    """What is sent over a wire is what is saved, and a part of its levels is a song, too."""
    song = song_of(np.array([[1, 2, 3], [1023, 0, 512], [7, 8, 9]]))
    assert song.save(tmp_path / "a.khala").read_bytes() == song.to_bytes()
    again = Song.from_bytes(song.to_bytes())
    assert np.array_equal(again.codes_QT, song.codes_QT)
    assert np.array_equal(song.with_levels(2).codes_QT, song.codes_QT[:2])
    with pytest.raises(RequestError, match="levels"):
        song.with_levels(4)
    for cut in (0, 7, 100, len(song.to_bytes()) - 1):
        with pytest.raises(AudioError, match="this is not a"):
            Song.from_bytes(song.to_bytes()[:cut])
