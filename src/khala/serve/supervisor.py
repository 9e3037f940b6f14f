"""Watching workers: starting them, starting them again, and giving the songs of dead ones on.

Every supervisor looks after the workers it started, and sees in the database whether those of
others give signs of life; whoever sees first that one is dead passes its songs on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from khala.errors import ConfigError
from khala.processes import alone_in
from khala.serve.files import FolderFiles, open_files
from khala.serve.ledger import Ledger
from khala.serve.settings import Settings
from khala.serve.tables import SONGS, WORKERS, connect
from khala.serve.worker import AGAIN, HOPELESS

__all__ = ["MOST_CRASHES", "Supervisor"]

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
TIDY_EVERY_S = 30.0
STARTING_S = 600.0
"""A worker that was not heard of so long after its start stands still: models are large."""

MOST_CRASHES = 3
"""Workers that may die of a song before it is set aside."""

MOST_KILLS = 10
"""Workers that may be killed from outside while they are at a song: not its fault, as far as known;
but a song that kills from inside would otherwise go on for ever."""

KILLED = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
BACK_OFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(kw_only=True)
class Child:
    """A worker process of ours."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    failures: int = 0
    """Starts in a row that came to nothing."""

    next_s: float = 0.0
    hung: bool = False
    memory_kills: int = 0
    """Of the whole computer when it was started."""


@dataclass(kw_only=True)
class Sighting:
    """What was seen of another worker."""

    life: str
    beats: int
    at_s: float


@dataclass(kw_only=True)
class Supervisor:
    """Looks after workers in a thread of its own until it is closed."""

    settings: Settings
    prefix: str = "local"
    """Of the names of its workers: unique among all supervisors, and the same at every start."""

    on_hopeless: Callable[[str], None] = lambda _: None
    """Called if workers cannot work with these settings."""

    _children: list[Child] = field(default_factory=list)
    _seen: dict[str, Sighting] = field(default_factory=dict)
    _reapers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look after workers while the block runs; they leave when it ends.

        Raises:
            ConfigError: another supervisor with this prefix runs on this computer.
        """
        locks = self.settings.data / "locks" / self.prefix
        locks.mkdir(parents=True, exist_ok=True)

        def busy() -> None:
            raise ConfigError(
                f"another process looks after the workers {self.prefix!r} of {self.settings.data}: "
                "stop it first"
            )

        with alone_in(locks, busy):
            files = open_files(self.settings)
            if self.settings.is_sqlite and isinstance(files, FolderFiles):
                files.sweep(before=time.time())  # nobody else writes here
            self._engine = connect(self.settings, pool=3)
            self._ledger = Ledger(engine=self._engine)
            names = (f"{self.prefix}-{slot + 1}" for slot in range(self.settings.workers))
            self._children = [Child(name=name) for name in names]
            self._thread = threading.Thread(target=self._look_after, daemon=True)
            self._thread.start()
            try:
                yield
            finally:
                self._over.set()
                self._thread.join(timeout=10.0)
                self._stop_children()
                self._engine.dispose()

    def _look_after(self) -> None:
        tidied_s = -TIDY_EVERY_S
        while not self._over.wait(LOOK_EVERY_S):
            for child in self._children:
                self._look_at(child)
            try:
                self._look_at_others()
                if time.monotonic() - tidied_s > TIDY_EVERY_S:
                    tidied_s = time.monotonic()
                    self._tidy()
            except (sa.exc.SQLAlchemyError, OSError) as error:
                # what could not be seen was not seen: nobody is dead because we are blind
                self._seen.clear()
                log.warning("cannot look after workers: %s", type(error).__name__)

    # -------------------------------------------------------------------------------- children

    def _look_at(self, child: Child) -> None:
        """Start a worker that is not there, and find out why it is not."""
        if child.process is None:
            if time.monotonic() >= child.next_s:
                self._start(child)
            return
        status = child.process.poll()
        if status is None:
            return
        seen = self._seen.get(child.name)
        has_worked = seen is not None and seen.life.startswith(f"{child.process.pid}-")
        child.failures = 0 if has_worked else child.failures + 1
        child.next_s = time.monotonic() + BACK_OFF_S[min(child.failures, len(BACK_OFF_S) - 1)]
        child.process = None
        if status == HOPELESS:
            child.next_s = float("inf")
            self.on_hopeless(f"worker {child.name} cannot work with these settings")
            return
        why = "stood still" if child.hung else described(status)
        log.warning("worker %s %s; it is started again", child.name, why)
        if status == AGAIN:
            return
        is_killed = -status in KILLED and not child.hung and not self._memory_was_short(child)
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            self._blame(child.name, why, is_killed=is_killed)

    def _start(self, child: Child) -> None:
        child.process = subprocess.Popen(
            [sys.executable, "-m", "khala.serve.worker"],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        child.started_s, child.hung = time.monotonic(), False
        child.memory_kills = memory_kills()
        self._seen.pop(child.name, None)
        line = json.dumps({"settings": self.settings.to_json(), "name": child.name})
        assert child.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.process.stdin.write(line.encode() + b"\n")
            child.process.stdin.flush()

    def _memory_was_short(self, child: Child) -> bool:
        """Whether the system killed somebody for memory while a worker lived."""
        return memory_kills() > child.memory_kills

    def _stop_children(self) -> None:
        processes = [child.process for child in self._children if child.process is not None]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(timeout=5.0)
            except subprocess.TimeoutExpired:
                kill_group(process.pid)
                process.wait()
        for reaper in self._reapers:
            reaper.kill()
            reaper.wait()

    def _blame(self, worker: str, why: str, *, is_killed: bool) -> None:
        """Note that a worker died of its song, and set aside one that killed too many."""
        at_work = sa.select(SONGS).where(SONGS.c.worker == worker, SONGS.c.run != "")
        with self._engine.connect() as db:
            rows = db.execute(at_work).mappings().all()
        for row in rows:
            crashes, kills = row["crashes"] + (not is_killed), row["kills"] + is_killed
            values = {"crashes": crashes, "kills": kills, "run": ""}
            if crashes >= MOST_CRASHES or kills >= MOST_KILLS:
                error = {
                    "code": "worker_died",
                    "detail": f"set aside: {crashes + kills} workers died while they made this "
                    f"song, the last one {why}",
                    "stage": row["stage"],
                }
                values |= {"state": "failed", "error": error, "finished_at": time.time()}
            self._ledger.change(row["id"], values, run=row["run"], states=("working",))

    # ---------------------------------------------------------------------------------- others

    def _look_at_others(self) -> None:
        """Compare signs of life with those seen before, by our own clock."""
        self._reapers = [one for one in self._reapers if one.poll() is None]
        with self._engine.connect() as db:
            rows = db.execute(sa.select(WORKERS).where(WORKERS.c.state != "reaped")).mappings()
            workers = list(rows)
        now_s = time.monotonic()
        ours = {child.name: child for child in self._children}
        for row in workers:
            seen = self._seen.get(row["id"])
            if seen is None or (seen.life, seen.beats) != (row["life"], row["beats"]):
                self._seen[row["id"]] = Sighting(life=row["life"], beats=row["beats"], at_s=now_s)
                continue
            is_silent = now_s - seen.at_s > self.settings.recovery_s
            if row["id"] in ours:
                child = ours[row["id"]]
                started = child.process is not None and child.started_s < seen.at_s
                if is_silent and started and row["life"].startswith(f"{child.process.pid}-"):  # type: ignore[union-attr]
                    child.hung = True
                    kill_group(child.process.pid)  # type: ignore[union-attr]
            elif is_silent or row["state"] == "gone":
                self._reap(row["id"], row["life"], row["beats"], row["state"])
        for child in ours.values():
            process = child.process
            is_late = child.name not in self._seen and now_s - child.started_s > STARTING_S
            if process is not None and is_late:
                child.hung = True
                kill_group(process.pid)

    def _reap(self, worker: str, life: str, beats: int, state: str) -> None:
        """Give a dead worker's songs on; only one supervisor does."""
        same = (WORKERS.c.id == worker, WORKERS.c.life == life, WORKERS.c.beats == beats)
        with self._engine.begin() as db:
            if db.execute(sa.update(WORKERS).where(*same, WORKERS.c.state == state)
                          .values(state="reaped")).rowcount == 0:  # fmt: skip
                return
        if state == "alive":
            log.warning("worker %s gave no sign of life; its songs go to others", worker)
            self._blame(worker, "gave no sign of life", is_killed=True)
        self._reapers.append(
            subprocess.Popen(
                [sys.executable, "-m", "khala.serve.reaper"],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        )
        pipe = self._reapers[-1].stdin
        assert pipe is not None
        line = json.dumps({"settings": self.settings.to_json(), "name": worker})
        with contextlib.suppress(BrokenPipeError):
            pipe.write(line.encode() + b"\n")
            pipe.close()

    # ------------------------------------------------------------------------------------ tidy

    def _tidy(self) -> None:
        """Remove what nobody needs: deleted songs, files without a song, old events."""
        deleted = sa.select(SONGS.c.id).where(SONGS.c.wish == "delete", SONGS.c.state != "working")
        with self._engine.connect() as db:
            songs = list(db.scalars(deleted))
        files = open_files(self.settings)
        for song in songs:
            files.remove(song)
            self._ledger.forget(song)
        if isinstance(files, FolderFiles):
            files.sweep(before=time.time() - 60.0)
            with self._engine.connect() as db:
                known = set(db.scalars(sa.select(SONGS.c.id)))
            for song in set(files.songs_before(time.time() - 600.0)) - known:
                files.remove(song)
        self._ledger.prune()
        old = sa.and_(WORKERS.c.state == "reaped", WORKERS.c.at < time.time() - 24 * 3600)
        with self._engine.begin() as db:
            db.execute(sa.delete(WORKERS).where(old))


def described(status: int) -> str:
    """Return how a process ended, in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def kill_group(pid: int) -> None:
    """Kill a process that leads a group, with all of it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def memory_kills() -> int:
    """Return how many processes the system has killed for memory (Linux; elsewhere 0)."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(found[0]) if found else 0


def host_prefix() -> str:
    """Return a prefix for the workers of this computer."""
    return "".join(c if c.isalnum() else "-" for c in socket.gethostname().lower())[:48]
