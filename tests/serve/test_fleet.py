"""Many machines: one PostgreSQL, one object store, and workers that come and go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checking import check
from moto.server import ThreadedMotoServer
from postgres import Postgres
from running import HERE, Running

from khala.serve.files import StoreFiles, open_files
from khala.serve.settings import Settings


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    made = Postgres(folder=tmp_path_factory.mktemp("postgres") / "server")
    made.create()
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def objects() -> Iterator[str]:
    """An object store that speaks S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_REGION", "us-east-1"), ("AWS_ALLOW_HTTP", "true"),
    ):  # fmt: skip
        patch.setenv(name, value)
    import urllib.request

    urllib.request.urlopen(
        urllib.request.Request(f"http://{host}:{port}/songs", method="PUT"), timeout=10
    ).read()
    yield "s3://songs/khala"
    patch.undo()
    server.stop()


def worker(name: str, folder: Path, database: Postgres, objects: str) -> subprocess.Popen[bytes]:
    """A machine with one worker."""
    path = os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", "")))
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "khala", "worker", "--name", name, "--data",
             str(folder / name), "--database", database.url, "--objects", objects,
             "--maker", "fake_maker:load"],
            stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip


def test_files_in_a_store_are_those_of_a_folder(objects: str, tmp_path: Path) -> None:
    """The same code must keep songs on a laptop and in a cluster."""
    song, other = "a" * 32, "b" * 32
    for files in (open_files(Settings(data=tmp_path)), StoreFiles(f"{objects}/files")):
        files.write(song, "song.khala", b"one")
        files.write(song, "song.khala", b"two")
        files.write(other, "audio-64.flac", b"x" * 100_000)
        assert files.read(song, "song.khala") == b"two"
        assert sorted(files.songs()) == [song, other]
        assert files.names(song) == ["song.khala"]
        with pytest.raises(FileNotFoundError):
            files.read(song, "plot.png")
        files.remove(song, "plot.png")
        files.remove(song)
        files.remove(song)
        assert list(files.songs()) == [other]
        for bad in ("../x", "", ".x", "x/y", "A", "x\0"):
            with pytest.raises(ValueError, match="no name"):
                files.read(other, bad)
            with pytest.raises(ValueError, match="no name"):
                files.write(bad, "x", b"")


@pytest.mark.timeout(220)
def test_songs_go_on_when_machines_do_not(database: Postgres, objects: str, tmp_path: Path) -> None:
    """A machine that never comes back, and a database that was away, cost seconds and no song."""
    front = Running(
        data=tmp_path / "front",
        options=["--workers", "0", "--database", database.url, "--objects", objects],
    )
    front.start()
    machines = {name: worker(name, tmp_path, database, objects) for name in ("one", "two")}
    try:
        client = front.client
        front.wait_worker()
        taken: dict[str, int] = {}

        def ask(numbers: range, prompt: str = "pop") -> list[str]:
            asked = []
            for number in numbers:
                (song,) = client.create(prompt=prompt, lyrics="la", duration=2.0, seed=number)
                taken[song.id] = number
                asked.append(song.id)
            return asked

        ask(range(10))
        slow = ask(range(10, 14), "slow")
        until_s = time.monotonic() + 60.0
        while sum(client.get(song).state == "working" for song in slow) < 2:
            assert time.monotonic() < until_s
            time.sleep(0.1)
        machines["one"].send_signal(signal.SIGKILL)  # for good
        killed_s = time.monotonic()
        stopped = {song: client.get(song) for song in slow}
        cut = [song for song, was in stopped.items() if was.state == "working"]
        while any(client.get(song).levels <= stopped[song].levels for song in cut):
            assert time.monotonic() - killed_s < 40.0, "nobody went on with its song"
            time.sleep(0.1)
        database.kill()
        time.sleep(1.0)
        database.start()
        ask(range(14, 20))
        for song in taken:
            assert client.wait(song, timeout_s=120.0).state == "done"
        assert len(client.audio(slow[0], format="mp3")) > 1_000
    finally:
        for one in machines.values():
            one.kill()
            one.wait()
        front.stop()
    settings = Settings(data=tmp_path / "front", database=database.url, objects=objects, workers=0)
    found = check(settings, taken)
    assert found["bad"] == {}
    assert found["songs"] == 20
