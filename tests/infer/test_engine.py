"""The engine: several songs at a time, each as if it were alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from khala import Khala, Song, SongRequest
from khala.backbone.writing import Writer
from khala.errors import Cancelled, CapacityError, RequestError, StageError
from khala.infer import Event, Progress
from khala.infer.engine import Engine, Sequence
from khala.superres.complete import Completion

REQUEST = SongRequest(
    prompt="pop", lyrics="la la", duration_s=1.5, seed=7, levels=8, guidance_scale=1.0
)
LONG = dataclasses.replace(REQUEST, duration_s=3.0, seed=8)
SEVERAL = (
    REQUEST,
    dataclasses.replace(REQUEST, seed=9),
    dataclasses.replace(LONG, guidance_scale=2.0, lyrics="other words"),
    dataclasses.replace(REQUEST, levels=2, instrumental=True, lyrics=""),
    dataclasses.replace(LONG, levels=5, temperature=0.5),
)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Khala:
    return Khala.from_pretrained(tiny_model)


def same(one: Song | object, other: Song | object) -> bool:
    assert isinstance(one, Song)
    assert isinstance(other, Song)
    return np.array_equal(one.codes_QT, other.codes_QT) and one.ended == other.ended


def song_of(sequence: Sequence) -> Song:
    assert sequence.error is None
    assert sequence.song is not None
    return sequence.song


def test_many_equal_each_alone(model: Khala) -> None:
    """What a listener gets must not depend on what else was asked for at that moment."""
    together = model.generate_many(SEVERAL)
    for request, song in zip(SEVERAL, together, strict=True):
        assert same(song, model.generate(request))
        assert isinstance(song, Song)
        assert song.num_levels == request.levels
        assert song.request == request


def test_everyone_hears_their_own_progress(model: Khala) -> None:
    """Two bars that move each other tell nothing about either song."""
    heard: list[Event] = []
    model.generate_many(SEVERAL[:3], on_event=heard.append)
    for song in range(3):
        own = [one for one in heard if isinstance(one, Progress) and one.song == song]
        assert [one.stage for one in own] == sorted(one.stage for one in own)
        last = {one.stage: one for one in own}
        assert all(one.done == one.total for one in last.values())
        assert set(last) == {"backbone", "superres"}


def test_songs_come_while_others_are_made(model: Khala) -> None:
    """A server cannot ask people to come at the same moment."""
    engine = Engine(model=model)
    work = [engine.submit(LONG)]
    for request in SEVERAL:
        for _ in range(7):
            engine.step()
        work.append(engine.submit(request))
    engine.run()
    assert not engine.step()
    for request, one in zip((LONG, *SEVERAL), work, strict=True):
        assert same(song_of(one), model.generate(request))


def test_who_leaves_keeps_what_is_finished(model: Khala) -> None:
    """Within one step, and nobody else notices."""
    engine = Engine(model=model)
    stays, early, late, never = (engine.submit(LONG) for _ in range(4))
    for _ in range(30):
        engine.step()
    early.cancelled = True
    engine.step()
    assert isinstance(early.error, Cancelled)
    part = early.error.finished
    assert isinstance(part, Song)
    assert part.num_frames == 30
    assert part.ended == "cancelled"
    while late.completion is None or late.completion.num_levels < 5:
        engine.step()
    late.cancelled = True
    engine.step()
    assert isinstance(late.error, Cancelled)
    assert isinstance(late.error.finished, Song)
    assert late.error.finished.num_levels == 5
    engine.run()
    whole = model.generate(LONG)
    assert same(song_of(stays), whole)
    assert same(song_of(never), whole)
    assert np.array_equal(late.error.finished.codes_QT, whole.codes_QT[:5])


def test_a_song_that_waits_can_be_cancelled(model: Khala) -> None:
    """It leaves nothing, and takes nobody's place."""
    engine = Engine(model=model, most_songs=1)
    first, second = engine.submit(REQUEST), engine.submit(REQUEST)
    second.cancelled = True
    engine.run()
    assert song_of(first)
    assert isinstance(second.error, Cancelled)
    assert second.error.finished is None


def test_memory_is_planned_when_a_song_comes(model: Khala) -> None:
    """Never an end for lack of memory in the middle: a song waits, or hears no at once."""
    one = Engine(model=model)
    one.submit(LONG)
    (needs,) = one._scheduler._needs.values()
    room = Engine(model=model, most_bytes=needs.held + needs.passing)
    work = [room.submit(LONG) for _ in range(3)]
    with pytest.raises(CapacityError, match="a shorter one needs less"):
        room.submit(dataclasses.replace(LONG, duration_s=20.0))
    most = 0
    while room.step():
        most = max(most, len(room._sequences) - len(room._scheduler.waiting))
    assert most == 1
    assert all(same(song_of(each), song_of(work[0])) for each in work)


def test_a_request_nobody_can_make(model: Khala) -> None:
    """One mistake among several is said before any work is done for the others."""
    with pytest.raises(RequestError, match="levels"):
        model.generate_many([REQUEST, dataclasses.replace(REQUEST, levels=60)])


def test_songs_that_share_passes_equal_each_alone(model: Khala) -> None:
    """A device is given short songs together, whatever level each of them is at."""
    engine = Engine(model=model, most_positions=10_000)
    together: list[int] = []
    complete = Engine._completion

    def counted(self: Engine, sequence: Sequence) -> Completion:
        """Note which songs are in which pass."""
        together.append(sequence.number)
        return complete(self, sequence)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_completion", counted)
        work = [engine.submit(request) for request in SEVERAL]
        engine.run()
    assert together != sorted(together), "some passes had several songs"
    for request, sequence in zip(SEVERAL, work, strict=True):
        assert same(song_of(sequence), model.generate(request))


@pytest.mark.parametrize("most_positions", [0, 10_000])
def test_broken_numbers_break_one_song(model: Khala, most_positions: int) -> None:
    """The others finish; the broken one says why and keeps the levels it has."""
    engine = Engine(model=model, most_positions=most_positions)
    work = [engine.submit(request) for request in SEVERAL[:3]]
    while work[1].completion is None or work[1].completion.num_levels < 4:
        engine.step()
    with torch.inference_mode():
        work[1].completion._frames_TD[3] = torch.nan
    engine.run()
    error = work[1].error
    assert isinstance(error, StageError)
    assert error.stage == "superres"
    assert "not finite" in str(error)
    assert isinstance(error.finished, Song)
    assert np.array_equal(error.finished.codes_QT, model.generate(SEVERAL[1]).codes_QT[:4])
    for place in (0, 2):
        assert same(song_of(work[place]), model.generate(SEVERAL[place]))


def test_a_lost_device_loses_no_finished_level(
    model: Khala, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of work are in the codes, and those are not on the device."""
    draw, write_frame = Completion.draw, Writer.write_frame

    def lost(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA error: device lost\nand a trace")

    engine = Engine(model=model)
    first = engine.submit(REQUEST)
    while first.completion is None or first.completion.num_levels < 6:
        engine.step()
    second = engine.submit(LONG)
    for _ in range(60):
        engine.step()
        if second.writing is not None and second.writing.num_frames >= 25:
            break
    monkeypatch.setattr(Completion, "draw", lost)
    monkeypatch.setattr(Writer, "write_frame", lost)
    engine.run()
    monkeypatch.setattr(Completion, "draw", draw)
    monkeypatch.setattr(Writer, "write_frame", write_frame)
    for sequence, stage in ((first, "superres"), (second, "backbone")):
        if sequence.song is not None:
            continue  # it was finished before the device was lost
        assert isinstance(sequence.error, StageError)
        assert sequence.error.stage == stage
        assert str(sequence.error) == f"{stage} failed: CUDA error: device lost"
        part = sequence.error.finished
        assert isinstance(part, Song)
        whole = model.generate(sequence.request).codes_QT
        assert np.array_equal(part.codes_QT, whole[: part.num_levels, : part.num_frames])
    assert second.error is not None
    assert same(song_of(_again(engine, REQUEST)), model.generate(REQUEST)), "the engine lives on"


def _again(engine: Engine, request: SongRequest) -> Sequence:
    sequence = engine.submit(request)
    engine.run()
    return sequence
