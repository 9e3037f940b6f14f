"""One worker: a process that makes songs, one after another, until its parent is gone.

It is started by a supervisor, which writes it a line of settings and watches its signs of life. Run
it by ``khala serve`` or ``khala worker``, not by hand.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import sqlalchemy as sa
from dbos import DBOS

from khala.errors import CapacityError, KhalaError
from khala.serve.durable import QUEUE, WORKFLOW, engine_client, engine_config, enqueue
from khala.serve.files import open_files
from khala.serve.ledger import Ledger, Row
from khala.serve.making import Fenced, Maker, Making, Run
from khala.serve.sealing import Sealer
from khala.serve.settings import Settings
from khala.serve.stages import Stage
from khala.serve.tables import SONGS, WORKERS, connect

__all__ = ["AGAIN", "HOPELESS", "Pulse", "main"]

Result = TypeVar("Result")

AGAIN = 75
"""Exit status: the database or the disk failed, start me again; no song is to blame."""

HOPELESS = 78
"""Exit status: with these settings it cannot work; stderr says why."""

BEAT_S = 1.0
POLL_S = 0.2
RETRY_S = 0.5
PATIENCE_S = 600.0
"""How long a worker waits for a database or a disk before it begins anew."""

LOOK_EVERY_BEATS = 5
"""For workflows that the database calls running and that are not: a full disk leaves such."""


@dataclass(kw_only=True)
class Pulse:
    """Signs of life: a worker that stands still is found out, one that only works long is not.

    How long it may be silent follows from how long it was before: models and computers differ by a
    factor of a thousand.
    """

    patience_s: float
    """At least so long."""

    first_s: float = 300.0
    """So long before there are three signs of a stage: nothing is known yet."""

    _last_s: float = field(default_factory=time.monotonic)
    _longest_s: float = 0.0
    _signs: int = 0

    def sign(self) -> None:
        """Note a sign of life."""
        now_s = time.monotonic()
        if self._signs:
            self._longest_s = max(self._longest_s, now_s - self._last_s)
        self._signs += 1
        self._last_s = now_s

    def begin(self) -> None:
        """Begin something whose pace is not known."""
        self._signs, self._longest_s, self._last_s = 0, 0.0, time.monotonic()

    @property
    def is_beating(self) -> bool:
        """Whether there is no reason to worry."""
        allowed_s = self.first_s
        if self._signs >= 3:
            allowed_s = max(self.patience_s, 10.0 * self._longest_s)
        return time.monotonic() - self._last_s <= allowed_s


def main() -> int:
    """Read a line of settings from stdin and work until it is closed; return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="khala worker: %(message)s")
    line = json.loads(sys.stdin.readline())
    settings = Settings.from_json(line["settings"])
    _leave_with_parent()
    try:
        maker = load_maker(settings)
    except KhalaError as error:
        sys.stderr.write(f"khala: error: {error}\n")
        return AGAIN if isinstance(error, CapacityError) else HOPELESS
    worker = Worker(settings=settings, name=line["name"], maker=maker)
    signal.signal(signal.SIGTERM, lambda *_: worker.leave())
    worker.work()
    return 0


def load_maker(settings: Settings) -> Maker:
    """Load what makes the songs."""
    module, _, function = settings.maker.partition(":")
    maker: Maker = getattr(importlib.import_module(module), function)(settings)
    return maker


def _leave_with_parent() -> None:
    """End when stdin is closed: whoever started this is gone."""

    def watch() -> None:
        while sys.stdin.read(4096):
            pass
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


class Worker:
    """A maker of songs and its place among the others."""

    def __init__(self, *, settings: Settings, name: str, maker: Maker) -> None:
        self._settings, self._name, self._maker = settings, name, maker
        self._life = f"{os.getpid()}-{time.time_ns():x}"
        self._engine = connect(settings, pool=5)
        self._pulse = Pulse(patience_s=settings.recovery_s / 2)
        self._running: set[str] = set()
        self._lost: set[str] = set()
        self._client = engine_client(settings, self._engine)
        self._making = Making(
            ledger=PatientLedger(engine=self._engine, sign=self._pulse.sign),
            files=open_files(settings),
            maker=maker,
            sealer=Sealer.open(settings),
            worker=name,
            pulse=self._pulse.sign,
            enqueue=lambda db, row: enqueue(self._client, db, row),
        )

    def work(self) -> NoReturn:
        """Register, take songs from the queue, and give signs of life for ever."""
        try:
            self._register()
            self._launch()
        except Exception as error:  # noqa: BLE001 - whatever it is, a new start may help
            _begin_anew(error)
        beats = 0
        while True:
            time.sleep(BEAT_S)
            beats += 1
            try:
                self._beat()
                if beats % LOOK_EVERY_BEATS == 0:
                    self._look_for_lost()
            except sa.exc.SQLAlchemyError as error:
                logging.warning("the database does not answer: %s", type(error).__name__)

    def leave(self) -> NoReturn:
        """Say so and leave at once: what is finished is kept, and the rest is begun again."""
        gone = sa.update(WORKERS).where(WORKERS.c.id == self._name, WORKERS.c.life == self._life)
        try:
            with self._engine.begin() as db:
                db.execute(gone.values(state="gone"))
        finally:
            os._exit(0)

    def _register(self) -> None:
        """Take a place among the workers; what an earlier life of this one had begun is open."""
        earlier = sa.update(SONGS).where(SONGS.c.worker == self._name, SONGS.c.run != "")
        with self._engine.begin() as db:
            db.execute(earlier.values(run=""))
            db.execute(sa.delete(WORKERS).where(WORKERS.c.id == self._name))
            db.execute(
                WORKERS.insert().values(
                    id=self._name, life=self._life, state="alive", beats=0,
                    about=self._maker.about, at=time.time(),
                )
            )  # fmt: skip

    def _launch(self) -> None:
        """Have the job engine bring songs to `_song`."""
        DBOS(config=engine_config(self._settings, self._name))

        @DBOS.step(name="plan")
        def plan(run: Run) -> list[dict[str, Any]]:
            return [stage.to_dict() for stage in self._making.plan(run)]

        @DBOS.step(name="do")
        def do(run: Run, stage: dict[str, Any]) -> str:
            self._pulse.begin()
            return self._patiently(lambda: self._making.do(run, Stage.from_dict(stage)))

        @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=1_000_000)
        def song(job: str) -> str:
            self._running.add(job)
            try:
                return self._song(job, plan, do)
            except Fenced:
                return "given up"
            except Exception as error:  # noqa: BLE001 - the job stays what it is, for a new start
                _begin_anew(error)
            finally:
                self._running.discard(job)

        DBOS.listen_queues([QUEUE])
        DBOS.launch()
        DBOS.register_queue(
            QUEUE, worker_concurrency=1, polling_interval_sec=POLL_S, on_conflict="always_update"
        )

    def _song(
        self,
        job: str,
        plan: Callable[[Run], list[dict[str, Any]]],
        do: Callable[[Run, dict[str, Any]], str],
    ) -> str:
        """Make a song as far as its job says; after a crash, what is recorded is not done again."""
        self._pulse.begin()
        run = self._making.claim(job)
        if run is None:
            return "nothing to do"
        outcome, stages = "done", plan(run)
        for number, stage in enumerate(stages, start=1):
            outcome = do(run, stage)
            if outcome != "done":
                break
            if number < len(stages) and self._making.should_give_way(run):
                self._patiently(lambda: self._making.give_way(run))
                return "gave way"
        self._patiently(lambda: self._making.end(run, outcome))
        return outcome

    def _patiently(self, work: Callable[[], Result]) -> Result:
        """Do something, again and again while a disk is full or a store does not answer."""
        started_s = time.monotonic()
        while True:
            try:
                return work()
            except OSError as error:
                if time.monotonic() - started_s > PATIENCE_S:
                    raise
                logging.warning("a file cannot be written: %s", error.strerror or "no answer")
                for _ in range(4):
                    self._pulse.sign()
                    time.sleep(RETRY_S)

    def _beat(self) -> None:
        """Give a sign of life, unless this process stands still; leave if it was given up."""
        if self._running and not self._pulse.is_beating:
            return
        ours = (WORKERS.c.id == self._name, WORKERS.c.life == self._life)
        alive = sa.update(WORKERS).where(*ours, WORKERS.c.state == "alive")
        with self._engine.begin() as db:
            if db.execute(alive.values(beats=WORKERS.c.beats + 1)).rowcount == 0:
                logging.warning("this worker was given up for dead; it begins anew")
                os._exit(AGAIN)

    def _look_for_lost(self) -> None:
        """Begin anew if the engine lost a workflow of ours, as it does when the disk was full."""
        pending = self._client.list_workflows(
            status="PENDING", executor_id=self._name, load_input=False, load_output=False
        )
        lost = {one.workflow_id for one in pending} - self._running
        if lost & self._lost:
            _begin_anew(RuntimeError("a workflow was lost"))
        self._lost = lost


@dataclass(frozen=True, kw_only=True)
class PatientLedger(Ledger):
    """A ledger that waits for a database that does not answer or has no room."""

    sign: Callable[[], None]
    """Called while it waits: waiting is no standing still."""

    def song(self, song: str, owner: str | None = None) -> Row | None:
        """Return a song's row."""
        return self._patiently(lambda: Ledger.song(self, song, owner))

    def files(self, song: str) -> dict[str, Row]:
        """Return what files a song has."""
        return self._patiently(lambda: Ledger.files(self, song))

    def somebody_waits(self, rank: int) -> bool:
        """Whether a song waits that comes before a rank."""
        return self._patiently(lambda: Ledger.somebody_waits(self, rank))

    def change(self, song: str, values: Mapping[str, Any], **how: Any) -> Row | None:
        """Change a song's row and tell of it."""
        return self._patiently(lambda: Ledger.change(self, song, values, **how))

    def _patiently(self, work: Callable[[], Result]) -> Result:
        started_s = time.monotonic()
        while True:
            try:
                return work()
            except (sa.exc.OperationalError, sa.exc.InterfaceError):
                if time.monotonic() - started_s > PATIENCE_S:
                    raise
                self.sign()
                time.sleep(RETRY_S)


def _begin_anew(error: Exception) -> NoReturn:
    """End this process for reasons that no song is to blame for; its supervisor starts another."""
    logging.error("%s; the worker begins anew", type(error).__name__, exc_info=error)
    os._exit(AGAIN)


if __name__ == "__main__":
    sys.exit(main())
