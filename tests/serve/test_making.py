"""Songs on their way: made, stopped, gone on with, and kept when workers die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from checking import check
from fake_maker import codes
from running import Running

from khala.client import Client, RemoteSong, ServiceError
from khala.serve.provenance import verify
from khala.serve.settings import Settings
from khala.song import Song

WORDS = {"prompt": "pop", "lyrics": "la la", "duration": 2.0}


def ask(client: Client, **changes: Any) -> RemoteSong:
    (song,) = client.create(**{**WORDS, "seed": 1, **changes})
    return song


def until(client: Client, song: str, true: Callable[[RemoteSong], bool]) -> RemoteSong:
    """Wait for something to be true of a song, twenty seconds at most."""
    until_s = time.monotonic() + 20.0
    while not true(found := client.get(song)):
        assert time.monotonic() < until_s, found
        time.sleep(0.05)
    return found


def song_file(client: Client, song: str) -> Song:
    return Song.from_bytes(client.file(song))


def test_a_song_is_made_and_heard(client: Client) -> None:
    """This is what everything is for."""
    song = client.wait(ask(client, title="Mine").id, timeout_s=30.0)
    assert (song.state, song.levels, song.error) == ("done", 64, None)
    assert song.heard == (2, 8, 32, 64)
    made = song_file(client, song.id)
    assert (made.codes_QT == codes(made.request, 64)).all()
    for format in ("flac", "wav", "mp3"):
        found = verify(client.audio(song.id, format=format), f".{format}")
        assert found.is_intact
        assert found.is_ai_generated
        assert found.song_id == song.id
    opus = client.audio(song.id, format="opus")
    sidecar = client._fetch("GET", f"/v1/songs/{song.id}/credentials")
    assert verify(opus, ".opus", sidecar=sidecar).is_intact
    assert client.audio(song.id, format="mp3") == client.audio(song.id, format="mp3")
    assert len(client._json("GET", f"/v1/songs/{song.id}/peaks")) == 1_000
    assert song.told["spent_s"] > 0


def test_variants_are_a_family(client: Client) -> None:
    """Takes of one request are to be compared."""
    songs = client.create(**WORDS, seed=10, n=3)
    assert [song.seed for song in songs] == [10, 11, 12]
    assert {song.family for song in songs} == {songs[0].id}
    more = client.variants(songs[1].id, 2)
    assert {song.family for song in more} == {songs[0].id}
    done = [client.wait(song.id, timeout_s=60.0) for song in (*songs, *more)]
    assert [song.state for song in done] == ["done"] * 5
    assert len({client.file(song.id) for song in done}) == 5
    assert {song.id for song in client.songs(family=songs[0].id)} == {song.id for song in done}


def test_sketches_come_before_details(client: Client) -> None:
    """Four takes are four first sounds within seconds, not one finished song and three silences."""
    last = next(client._listen(None, None)).number
    songs = client.create(**{**WORDS, "prompt": "slow"}, seed=20, n=3, levels=16)
    assert [client.wait(song.id, timeout_s=60.0).state for song in songs] == ["done"] * 3
    sketched, finished = [], []
    for event in client.events(after=last):
        if event.data.get("levels") == 2 and event.song not in sketched:
            sketched.append(event.song)
        if event.data.get("levels") == 8 and event.song not in finished:
            finished.append(event.song)
            if len(finished) == 1:
                assert len(sketched) == 3
        if len(finished) == 3:
            break
    for song in songs:
        made = song_file(client, song.id)
        assert (made.codes_QT == codes(made.request, 16)).all()


def test_cancel_keeps_what_is_finished(client: Client) -> None:
    """Who has heard enough, or wants a quicker song, still has one."""
    song = ask(client, prompt="slow")
    until(client, song.id, lambda now: now.levels >= 8 and now.stage == "detail")
    client.act(song.id, "cancel")
    song = until(client, song.id, lambda now: not now.is_live)
    assert song.state == "cancelled"
    assert 8 <= song.levels < 64
    assert song.heard[-1] == song.levels, "what was finished can be heard"
    made = song_file(client, song.id)
    assert (made.codes_QT == codes(made.request, song.levels)).all()
    client.act(song.id, "resume")
    client.act(song.id, "cancel")
    until(client, song.id, lambda now: not now.is_live)


def test_a_cancelled_sketch_can_be_made_whole(client: Client) -> None:
    """Half of a sketch cannot be continued; the whole one begins with the same notes."""
    song = ask(client, prompt="slow", levels=2)
    until(client, song.id, lambda now: now.told["progress"]["done"] > 2)
    client.act(song.id, "cancel")
    part = until(client, song.id, lambda now: not now.is_live)
    assert (part.state, part.levels, part.heard) == ("cancelled", 2, (2,))
    assert song_file(client, song.id).ended == "cancelled"
    client.act(song.id, "resume")
    whole = client.wait(song.id, timeout_s=30.0)
    assert (whole.state, whole.levels) == ("done", 2)
    assert song_file(client, song.id).ended == "limit"


def test_pause_and_resume_are_the_same_song(client: Client) -> None:
    """A pause must cost nothing, and change nothing."""
    song = ask(client, prompt="slow", levels=16)
    until(client, song.id, lambda now: now.levels >= 2 and now.stage == "detail")
    client.act(song.id, "pause")
    paused = until(client, song.id, lambda now: not now.is_live)
    assert paused.state == "paused"
    assert 2 <= paused.levels < 16
    client.act(song.id, "resume")
    done = client.wait(song.id, timeout_s=30.0)
    assert (done.state, done.levels) == ("done", 16)
    made = song_file(client, song.id)
    assert (made.codes_QT == codes(made.request, 16)).all()


def test_a_sketch_is_refined_later(client: Client) -> None:
    """Sketches are cheap: make many, and finish the one that is good."""
    song = client.wait(ask(client, levels=2).id, timeout_s=30.0)
    assert (song.state, song.heard) == ("done", (2,))
    with pytest.raises(ServiceError, match="ask for more") as refused:
        client.act(song.id, "refine", levels=2)
    assert refused.value.status == 409
    client.act(song.id, "refine", levels=12)
    song = client.wait(song.id, timeout_s=30.0)
    assert (song.levels, song.heard) == (12, (2, 8, 12))


def test_a_song_that_fails_says_why_and_can_be_tried_again(client: Client) -> None:
    """'Something went wrong' helps nobody."""
    song = client.wait(ask(client, prompt="broken").id, timeout_s=30.0)
    assert (song.state, song.levels) == ("failed", 2)
    assert song.error == "superres failed: broken"
    assert song.heard == (2,)
    assert client.act(song.id, "resume").state == "queued"
    assert client.wait(song.id, timeout_s=30.0).state == "failed"


def test_a_deleted_song_is_gone(client: Client, service: Running) -> None:
    """Words that somebody wanted gone must not stay on a disk."""
    song = client.wait(ask(client).id, timeout_s=30.0)
    slow = ask(client, prompt="slow")
    until(client, slow.id, lambda now: now.state == "working")
    for one in (song, slow):
        client.delete(one.id)
        with pytest.raises(ServiceError) as refused:
            client.get(one.id)
        assert refused.value.status == 404
    folder, until_s = service.data / "songs", time.monotonic() + 45.0
    while any((folder / one.id).exists() for one in (song, slow)):
        assert time.monotonic() < until_s
        time.sleep(0.2)


def test_a_song_that_kills_its_worker_is_set_aside(fragile: Running) -> None:
    """One broken song must not stop everybody's, for ever."""
    fragile.start()
    client = fragile.client
    poison = ask(client, prompt="crash")
    others = [ask(client, seed=seed) for seed in range(6)]
    song = client.wait(poison.id, timeout_s=60.0)
    assert song.state == "failed"
    assert song.told["error"]["code"] == "worker_died"
    assert "3 workers died" in str(song.error)
    assert song.levels == 2, "its sketch is kept"
    assert {client.wait(one.id, timeout_s=60.0).state for one in others} == {"done"}


def test_a_worker_that_stands_still_is_replaced(fragile: Running) -> None:
    """A song that never ends is worse than one that fails: everybody waits behind it."""
    fragile.options = ["--workers", "1"]
    fragile.start()
    client = fragile.client
    until(client, ask(client).id, lambda now: now.state == "done")
    stuck, (worker,) = ask(client, prompt="slow"), fragile.workers()
    until(client, stuck.id, lambda now: now.levels >= 2 and now.stage == "detail")
    started_s = time.monotonic()
    os.kill(worker, signal.SIGSTOP)
    until_s = started_s + 20.0
    while fragile.workers() == [worker]:
        assert time.monotonic() < until_s
        time.sleep(0.05)
    before = client.get(stuck.id).levels
    song = until(client, stuck.id, lambda now: now.levels > before)
    assert time.monotonic() - started_s < 15.0
    assert song.state == "working"


@pytest.mark.timeout(200)
def test_nothing_is_lost_when_everything_is_killed(fragile: Running) -> None:
    """A cut in the power costs a second of work, and no song."""
    fragile.start()
    taken: dict[str, int] = {}
    for number in range(24):
        song = ask(fragile.client, seed=number, key=f"key-{number}")
        taken[song.id] = number
        if number % 8 == 7:
            fragile.kill()
            fragile.start()
            again = ask(fragile.client, seed=number, key=f"key-{number}")
            assert again.id == song.id, "the answer was lost, the song was not"
        elif number % 4 == 3:
            for worker in fragile.workers():
                os.kill(worker, signal.SIGKILL)
    for song_id in taken:
        assert fragile.client.wait(song_id, timeout_s=90.0).state == "done"
    fragile.stop()
    found = check(Settings(data=fragile.data), taken)
    left = {"left-over temporary files"}  # swept when they are a minute old
    assert set(found["bad"]) <= left, found
    assert found["songs"] == 24
