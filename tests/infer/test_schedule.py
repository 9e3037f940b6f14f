"""The order of work, decided without a model."""

from __future__ import annotations

import pytest

from khala.errors import CapacityError
from khala.infer.schedule import Scheduler, SongNeeds, Work


def of(held: int = 10, passing: int = 5, positions: int = 100) -> SongNeeds:
    return SongNeeds(held=held, passing=passing, positions=positions)


def scheduler(most_bytes: int | None = None, **changes: object) -> Scheduler:
    settings: dict[str, object] = {"most_songs": 3, "most_bytes": most_bytes, **changes}
    return Scheduler(**settings)  # type: ignore[arg-type]


def admit_all(plan: Scheduler) -> list[int]:
    admitted = []
    while (song := plan.admit()) is not None:
        admitted.append(song)
    return admitted


def test_songs_wait_for_room_and_nobody_overtakes() -> None:
    """A long song at the front would otherwise wait for ever behind short ones."""
    plan = scheduler(most_bytes=40)
    for song, needs in enumerate((of(20), of(20), of(1))):
        plan.add(song, needs)
    assert admit_all(plan) == [0]
    assert plan.waiting == (1, 2)
    plan.leave(0)
    assert admit_all(plan) == [1, 2]
    assert plan.next() == Work(kind="frame", songs=(1, 2))


def test_passes_take_turns_so_only_the_largest_counts() -> None:
    """Counting every song's working memory would keep the machine half empty."""
    plan = scheduler(most_bytes=50)
    for song, needs in enumerate((of(10, 20), of(10, 30), of(10, 20), of(1, 1))):
        plan.add(song, needs)
    assert admit_all(plan) == [0, 1]


def test_what_never_fits_is_said_at_once() -> None:
    """Waiting for memory that no one has is waiting for ever."""
    plan = scheduler(most_bytes=14)
    with pytest.raises(CapacityError, match=r"0\.00 GB"):
        plan.add(0, of())
    assert plan.is_idle
    assert plan.next() is None


def test_no_more_songs_than_allowed() -> None:
    """Each one more makes all of them slower."""
    plan = scheduler()
    for song in range(5):
        plan.add(song, of())
    assert admit_all(plan) == [0, 1, 2]
    plan.leave(1)
    assert admit_all(plan) == [3]
    plan.leave(4)
    assert plan.waiting == ()


def test_frames_and_levels_share_the_time() -> None:
    """Neither do new sketches stop a song that is nearly finished, nor it them."""
    plan = scheduler()
    plan.add(0, of())
    plan.add(1, of())
    assert admit_all(plan) == [0, 1]
    plan.took("frame", 100.0)
    assert plan.next() == Work(kind="frame", songs=(0, 1))
    plan.sketched(0)
    spent = {"frame": 0.0, "level": 0.0}
    for _ in range(400):
        work = plan.next()
        assert work is not None
        seconds = 0.01 if work.kind == "frame" else 0.13
        assert work.songs == ((1,) if work.kind == "frame" else (0,))
        plan.took(work.kind, seconds)
        spent[work.kind] += seconds
    assert abs(spent["frame"] - spent["level"]) < 0.15
    assert spent["level"] > 1.0
    plan.sketched(1)
    assert plan.next() == Work(kind="level", songs=(0,)), "who came first is first"
    plan.leave(0)
    assert plan.next() == Work(kind="level", songs=(1,))


def test_short_songs_share_a_pass() -> None:
    """A device waits for work when a pass is short; with a long one others would only be later."""
    plan = scheduler(most_songs=5, most_bytes=100, most_positions=250)
    for song, needs in enumerate((of(), of(), of(), of(positions=900), of(passing=40))):
        plan.add(song, needs)
    for song in admit_all(plan):
        plan.sketched(song)
    assert plan.next() == Work(kind="level", songs=(0, 1)), "a third has too many positions"
    for song in (0, 1, 2):
        plan.leave(song)
    assert plan.next() == Work(kind="level", songs=(3,)), "a long song has a pass of its own"
    plan.leave(3)
    plan.add(5, of(held=30, passing=30))
    assert plan.admit() == 5
    plan.sketched(5)
    assert plan.next() == Work(kind="level", songs=(4,)), "40 held and 40 + 30 are too many bytes"


def test_models_in_turns_change_once() -> None:
    """Loading gigabytes for every frame would take all the time there is."""
    plan = scheduler(one_stage_at_a_time=True)
    for song in range(3):
        plan.add(song, of())
    assert admit_all(plan) == [0, 1, 2]
    plan.add(3, of())
    plan.sketched(1)
    assert plan.next() == Work(kind="frame", songs=(0, 2))
    plan.took("frame", 1e9)
    assert plan.next() == Work(kind="frame", songs=(0, 2))
    plan.sketched(0)
    plan.sketched(2)
    plan.leave(1)
    assert plan.admit() is None, "it waits until the other model is needed no more"
    plan.leave(0)
    plan.leave(2)
    assert plan.admit() == 3
