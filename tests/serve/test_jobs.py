"""Asking for songs: what is taken is kept, once, whatever happens to the answer."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from khala.errors import CapacityError, RequestError
from khala.serve.jobs import Jobs
from khala.serve.orders import Conflict, Order
from khala.serve.settings import Limits, Settings
from khala.serve.tables import META, prepare
from khala.song import SongRequest

REQUEST = SongRequest(prompt="pop", lyrics="la la", duration_s=2.0, seed=1)


def order(num: int = 1, **changes: Any) -> Order:
    requests = [dataclasses.replace(REQUEST, seed=seed) for seed in range(num)]
    values: dict[str, Any] = {"owner": "me", "requests": requests, "titles": ["a song"] * num}
    return Order(**{**values, **changes})


def submit(jobs: Jobs, order: Order) -> list[str]:
    return [row["id"] for row in jobs.submit(order)]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    settings = Settings(data=tmp_path, limits=Limits(queue=8, queue_each=5))
    prepare(settings)
    made = Jobs(settings)
    yield made
    made.close()


def workflows(jobs: Jobs) -> list[str]:
    with jobs.engine.connect() as db:
        return list(db.scalars(sa.text("SELECT workflow_uuid FROM workflow_status")))


def test_an_order_is_rows_jobs_and_events(jobs: Jobs) -> None:
    """A song in the list that no worker is told of would wait for ever."""
    songs = submit(jobs, order(3))
    assert len(set(songs)) == 3
    rows = [jobs.ledger.song(song, "me") for song in songs]
    assert [row and row["state"] for row in rows] == ["queued"] * 3
    assert {row["family"] for row in rows if row} == {songs[0]}
    assert sorted(workflows(jobs)) == sorted(f"{song}-1" for song in songs)
    assert [event["song"] for event in jobs.ledger.events(0)] == songs
    assert jobs.ledger.song(songs[0], "somebody else") is None


def test_the_same_key_is_the_same_song(jobs: Jobs) -> None:
    """A phone that loses its connection sends again; that must not make two songs."""
    first = submit(jobs, order(2, key="k"))
    assert submit(jobs, order(2, key="k")) == first
    assert submit(jobs, order(2, key="other")) != first
    assert submit(jobs, order(1, key="k", owner="you")) != first
    with pytest.raises(Conflict, match="Idempotency-Key"):
        submit(jobs, order(1, key="k"))
    assert len(workflows(jobs)) == 5


def test_keys_hold_when_many_come_at_once(jobs: Jobs) -> None:
    """Retries of an impatient client arrive while the first is still being written."""
    answers: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(submit(jobs, order(1, key="k"))))
        for _ in range(24)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(answers) == 24
    assert len({tuple(one) for one in answers}) == 1
    assert len(workflows(jobs)) == 1


def test_a_full_queue_says_so_and_takes_nothing(jobs: Jobs) -> None:
    """Half of the variants, or a song that is in the list but not in the queue, would be worse."""
    submit(jobs, order(4))
    with pytest.raises(CapacityError, match="4 songs of yours wait, and at most 5 may"):
        submit(jobs, order(2, key="k"))
    submit(jobs, order(4, owner="you"))
    with pytest.raises(CapacityError, match="8 songs wait, and at most 8 may"):
        submit(jobs, order(1))
    assert len(workflows(jobs)) == 8
    assert jobs.ledger.counts() == {"queued": 8}


def test_a_failed_neighbour_fails_alone(jobs: Jobs) -> None:
    """Orders share a transaction: one that is refused must not take the others with it."""
    submit(jobs, order(4))
    answers: dict[str, Any] = {}
    asked = (order(3, owner="me"), order(2, owner="you"))
    batch: list[tuple[Order, Future[Any]]] = [(one, Future()) for one in asked]
    jobs._write(batch)
    for one, future in batch:
        error = future.exception()
        answers[one.owner] = future.result() if error is None else error
    assert isinstance(answers["me"], CapacityError)
    assert len(answers["you"]) == 2


def test_the_state_decides_what_can_be_done(jobs: Jobs) -> None:
    """A button that does nothing, or the wrong thing, loses songs."""
    (song,) = submit(jobs, order())

    def row() -> Any:
        found = jobs.ledger.song(song)
        assert found is not None
        return found

    with pytest.raises(Conflict, match="queued"):
        jobs.go_on(row())
    assert jobs.stop(row(), "pause")["state"] == "paused"
    with pytest.raises(Conflict, match="nothing to pause"):
        jobs.stop(row(), "pause")
    assert jobs.go_on(row())["job"] == f"{song}-2"
    assert jobs.stop(row(), "cancel")["state"] == "cancelled"
    with pytest.raises(Conflict, match="nothing to cancel"):
        jobs.stop(row(), "cancel")
    jobs.ledger.change(song, {"state": "done", "levels": 16})
    with pytest.raises(RequestError, match="16 are there already"):
        jobs.go_on(row(), levels=8)
    with pytest.raises(Conflict, match="16 levels already"):
        jobs.go_on(row(), levels=16)
    assert jobs.go_on(row(), levels=32)["levels_wanted"] == 32
    jobs.delete(row())
    assert jobs.ledger.song(song, "me") is None
    assert jobs.ledger.change(song, {"wish": ""})["wish"] == "delete", "the last wish"  # type: ignore[index]


def test_two_who_go_on_at_once_make_one_job(jobs: Jobs) -> None:
    """Two tabs are open, and resume is pressed in both."""
    (song,) = submit(jobs, order())
    row = jobs.ledger.song(song)
    assert row is not None
    jobs.stop(row, "pause")
    row = jobs.ledger.song(song)
    assert row is not None
    jobs.go_on(row)
    with pytest.raises(Conflict, match="somebody else"):
        jobs.go_on(row)


def test_searching_and_pages(jobs: Jobs) -> None:
    """A song that cannot be found again is lost."""
    for number in range(4):
        request = dataclasses.replace(REQUEST, lyrics=f"Größe 100% {number} 春天")
        submit(jobs, order(requests=[request], titles=[f"Title_{number}"]))
    ledger = jobs.ledger
    assert len(ledger.songs("me", words="GRÖSSE pop")) == 4, "ß is SS in capitals"
    assert len(ledger.songs("me", words="größe pop")) == 4
    assert len(ledger.songs("me", words="春天 title_2")) == 1
    assert len(ledger.songs("me", words="100%")) == 4
    assert ledger.songs("me", words="%") == ledger.songs("me")
    assert ledger.songs("you", words="größe") == []
    first = ledger.songs("me", limit=3)
    last = first[-1]
    rest = ledger.songs("me", before=(last["created_at"], last["id"]))
    assert [row["title"] for row in (*first, *rest)] == [f"Title_{n}" for n in (3, 2, 1, 0)]


def test_a_database_of_another_version_is_refused(jobs: Jobs, tmp_path: Path) -> None:
    """Writing into tables that mean something else destroys what is in them."""
    from khala.errors import ConfigError

    with jobs.engine.begin() as db:
        db.execute(META.tables["khala_version"].update().values(version=99))
    with pytest.raises(ConfigError, match="version 99"):
        prepare(Settings(data=tmp_path))
