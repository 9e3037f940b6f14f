"""From a request to a song, with a model of noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from khala import Codec, Khala, Song, SongRequest
from khala.audio import read_audio
from khala.errors import Cancelled, CheckpointError, RequestError
from khala.infer import Event, Notice, Progress, replay
from khala.infer import sound as sound_room

REQUEST = SongRequest(
    prompt="pop, piano", lyrics="[Verse]\nla la la", duration_s=2.0, seed=7, levels=8
)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Khala:
    torch.set_num_threads(1)
    return Khala.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def song(model: Khala) -> Song:
    return model.generate(REQUEST)


def test_a_song_is_as_long_as_asked(model: Khala, song: Song) -> None:
    """Two seconds asked, two seconds heard, within 5 %."""
    assert song.codes_QT.shape[0] == 8
    assert 1.9 <= song.duration_s <= 2.1
    wave = model.decode(song)
    assert wave.shape == (2, song.num_frames * 2_048)
    assert np.abs(wave).max() <= 0.99


def test_same_seed_same_song_other_seed_other_song(model: Khala, song: Song) -> None:
    """A seed is a song: repeated it gives the same, changed it gives another."""
    again = model.generate(REQUEST)
    other = model.generate(dataclasses.replace(REQUEST, seed=8))
    assert np.array_equal(again.codes_QT, song.codes_QT)
    assert not np.array_equal(other.codes_QT[:, :20], song.codes_QT[:, :20])


def test_five_lines_of_python(tiny_model: Path, tmp_path: Path) -> None:
    """What the README shows works, and the files are those of the command line's --seed 7."""
    model = Khala.from_pretrained(tiny_model)
    song = model.generate(REQUEST)
    song.save(tmp_path / "song.khala")
    model.write(song, tmp_path / "song.wav")
    again = Song.load(tmp_path / "song.khala")
    model.write(again, tmp_path / "again.wav")
    assert (tmp_path / "song.wav").read_bytes() == (tmp_path / "again.wav").read_bytes()
    model.generate(REQUEST).save(tmp_path / "other.khala")
    assert (tmp_path / "other.khala").read_bytes() == (tmp_path / "song.khala").read_bytes()


def test_finishing_later_equals_at_once(model: Khala, song: Song) -> None:
    """A sketch that one likes becomes exactly the song it would have been."""
    sketch = model.generate(dataclasses.replace(REQUEST, levels=2))
    assert np.array_equal(sketch.codes_QT, song.codes_QT[:2])
    halfway = model.refine(sketch, levels=5)
    assert np.array_equal(halfway.codes_QT, song.codes_QT[:5])
    assert np.array_equal(model.refine(halfway, levels=8).codes_QT, song.codes_QT)
    assert "superres" in halfway.digests


def test_other_fine_levels_keep_the_sketch(model: Khala, song: Song) -> None:
    """The same melody with other details: what is kept is kept, the rest is new."""
    other = model.refine(song, levels=8, seed=99, keep_levels=4)
    assert np.array_equal(other.codes_QT[:4], song.codes_QT[:4])
    assert not np.array_equal(other.codes_QT[4:], song.codes_QT[4:])
    assert other.request.seed == 7
    assert other.seed == 99


@pytest.mark.parametrize(
    ("levels", "keep", "words"),
    [
        (9, None, "2 to 8"),
        (1, None, "2 to 8"),
        (8, 9, "2 to 8"),
        (8, 1, "2 to 8"),
        (4, 5, "5 to 8"),
    ],
)
def test_levels_that_cannot_be(
    model: Khala, song: Song, levels: int, keep: int | None, words: str
) -> None:
    """A wrong number of levels is answered with the right ones."""
    with pytest.raises(RequestError, match=words):
        model.refine(song, levels=levels, keep_levels=keep)
    with pytest.raises(RequestError, match="has all 8 levels"):
        model.refine(song, levels=8, seed=99)


def test_progress_is_honest(model: Khala) -> None:
    """Bars only grow, every stage reaches its end, and the time left becomes zero."""
    heard: list[Event] = []
    song = model.generate(REQUEST, on_event=heard.append)
    model.decode(song, on_event=heard.append)
    for stage in ("backbone", "superres", "codec"):
        steps = [one for one in heard if isinstance(one, Progress) and one.stage == stage]
        counts = [one.done for one in steps]
        assert counts == sorted(counts)
        assert counts[0] == 0
        assert steps[0].eta_s is None
        assert counts[-1] == steps[-1].total
        assert steps[-1].eta_s == 0.0
    assert sum(isinstance(one, Progress) and one.stage == "superres" for one in heard) == 7


def test_too_many_words_are_said(model: Khala) -> None:
    """A user hears before the song that half of the words will be missing."""
    heard: list[Event] = []
    request = dataclasses.replace(REQUEST, lyrics="[Verse]\n" + "la " * 30, levels=2)
    model.generate(request, on_event=heard.append)
    assert [one.code for one in heard if isinstance(one, Notice)] == ["dense_lyrics"]


def test_loud_songs_are_turned_down_and_said(model: Khala, song: Song) -> None:
    """No song clips, and nobody wonders why one is quieter than another."""

    class Loud(torch.nn.Module):
        halo_frames, decode_frames = 1, 512
        config = model.codec.config

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def decode(self, codes_BQT: torch.Tensor, **_: object) -> torch.Tensor:
            return torch.full((1, 2, codes_BQT.shape[2] * 2_048), 3.0)

    heard: list[Event] = []
    wave = sound_room.decode_song(Loud(), song, on_event=heard.append)  # type: ignore[arg-type]
    assert np.allclose(wave, 0.99)
    (notice,) = [one for one in heard if isinstance(one, Notice)]
    assert notice.code == "scaled_down"
    assert notice.value == pytest.approx(0.33)


def test_pieces_equal_the_whole(model: Khala, song: Song, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long song has no seams where it was decoded in pieces."""
    whole = model.decode(song)
    monkeypatch.setattr(Codec, "decode_frames", 16)
    assert np.abs(model.decode(song) - whole).max() < 1e-4


@pytest.mark.parametrize("after_s", [0.4, 1.5])
def test_stopped_in_the_sketch(model: Khala, song: Song, after_s: float) -> None:
    """Ctrl-C keeps what can be played, which is anything of a second and more."""
    polls = 0

    def stop() -> bool:
        nonlocal polls
        polls += 1
        return polls > after_s * 44_100 / 2_048

    with pytest.raises(Cancelled) as info:
        model.generate(REQUEST, should_stop=stop)
    part = info.value.finished
    if after_s < 1:
        assert part is None
        return
    assert isinstance(part, Song)
    assert part.ended == "cancelled"
    assert np.array_equal(part.codes_QT, song.codes_QT[:2, : part.num_frames])
    assert model.decode(part).shape[1] == part.num_frames * 2_048
    assert replay(model, part).identical


def test_stopped_between_levels(model: Khala, song: Song) -> None:
    """A song stopped in its details plays with the levels that are whole, and can be finished."""
    polls = 0

    def stop() -> bool:
        nonlocal polls
        polls += 1
        return polls > song.num_frames + 3

    with pytest.raises(Cancelled) as info:
        model.generate(REQUEST, should_stop=stop)
    part = info.value.finished
    assert isinstance(part, Song)
    assert part.num_levels == 5
    assert part.ended == song.ended
    assert np.array_equal(model.refine(part, levels=8).codes_QT, song.codes_QT)


def test_replay_agrees_and_finds_a_changed_code(model: Khala, song: Song) -> None:
    """`khala verify` says yes to an honest song, and names the first place of a changed one."""
    assert replay(model, song).identical
    codes = song.codes_QT.copy()
    codes[5, 11] ^= 1
    result = replay(model, dataclasses.replace(song, codes_QT=codes))
    assert not result.identical
    assert (result.first_level, result.first_frame, result.num_different) == (5, 11, 1)
    assert result.other_models == ()
    codes = song.codes_QT.copy()
    codes[1, 3] ^= 1
    result = replay(model, dataclasses.replace(song, codes_QT=codes))
    assert (result.first_level, result.first_frame) == (1, 3)
    refined = model.refine(song, levels=8, seed=99, keep_levels=2)
    assert replay(model, refined).identical


def test_another_model_is_noticed(
    make_tiny_model: Callable[..., Path], tmp_path: Path, model: Khala, song: Song
) -> None:
    """A song is never played through another model's codec, which would be noise."""
    other = Khala.from_pretrained(make_tiny_model(tmp_path / "other", seed=1))
    with pytest.raises(CheckpointError, match="another codec"):
        other.decode(song)
    with pytest.raises(CheckpointError, match="another codec"):
        other.refine(song, levels=8)
    mixed = dataclasses.replace(
        model,
        models=dataclasses.replace(model.models, backbone=other.backbone),
        digests={**model.digests, "backbone": other.digests["backbone"]},
    )
    result = replay(mixed, song)
    assert not result.identical
    assert result.other_models == ("backbone",)


def test_requests_beyond_the_model(model: Khala) -> None:
    """What this model cannot do is said before any work, with what it can."""
    for change, words in (
        ({"levels": 64}, "2 to 8"),
        ({"duration_s": 100.0}, r"up to \d+\.\d s"),
        ({"duration_s": 500.0}, "180"),
        ({"lyrics": "la " * 1_600}, "tokens"),
    ):
        with pytest.raises(RequestError, match=words):
            model.check(dataclasses.replace(REQUEST, **change))  # type: ignore[arg-type]


def test_recordings(model: Khala, song: Song, tmp_path: Path) -> None:
    """A recording becomes codes and sound again; nobody can claim that it was generated."""
    model.write(song, tmp_path / "a.wav")
    encoded = model.encode(tmp_path / "a.wav", levels=4)
    assert encoded.codes_QT.shape == (4, song.num_frames)
    model.write(encoded, tmp_path / "b.flac")
    assert read_audio(tmp_path / "b.flac").shape[1] == song.num_frames * 2_048
    with pytest.raises(RequestError, match="recording"):
        replay(model, encoded)
    with pytest.raises(RequestError, match="2 to 8"):
        model.encode(tmp_path / "a.wav", levels=9)


@pytest.mark.parametrize(
    "name",
    ["codec/model.safetensors", "backbone/model.safetensors", "superres/model.safetensors",
     "backbone/config.json", "tokenizer.json", "codec/manifest.json"],
)  # fmt: skip
def test_one_flipped_byte_in_a_model(
    name: str, make_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """A damaged download is named, instead of singing slightly wrong for ever."""
    folder = make_tiny_model(tmp_path / "m")
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as info:
        Khala.from_pretrained(folder)
    assert "\n" not in str(info.value)
    path.unlink()
    with pytest.raises(CheckpointError):
        Khala.from_pretrained(folder)
