"""Asking for songs, durably: a song that was taken is made, whatever happens in between.

A job is one workflow of the engine (DBOS) that makes a song as far as was asked. Workflows only
ever run to their end or die with their worker. Pausing, cancelling and failing are ends like any
other, and going on is a new job that begins with what the song has; so nothing depends on how far
the engine's own state is.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from dbos import DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions

from khala.errors import CapacityError, KhalaError, RequestError
from khala.serve.ledger import LIVE, Ledger, Row, public, tell
from khala.serve.settings import Settings
from khala.serve.tables import FILES, KEYS, SONGS, connect
from khala.song import SongRequest

__all__ = ["QUEUE", "Conflict", "Jobs", "Order", "engine_config", "new_id"]

QUEUE = "songs"
WORKFLOW = "song"
APPLICATION = "khala"
VERSION = "jobs-1"
"""Of the workflow's steps: jobs of another one would not be taken over."""

MOST_AT_ONCE = 64
"""Orders that are written in one transaction: a disk's answer takes longer than the rest."""


class Conflict(KhalaError):
    """What is asked does not fit the state of the song, or the key of an earlier request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Songs that are asked for together: variants differ in their seeds alone."""

    owner: str
    requests: Sequence[SongRequest]
    titles: Sequence[str]
    priority: int = 5
    family: str | None = None
    """Of another song, to be shown beside it."""

    key: str | None = None
    """The same key and the same request again are the same songs."""

    asked: str | None = None
    """The request as it was asked, where it does not say everything: seeds are drawn anew."""

    ids: Sequence[str] | None = None
    """Of the songs, if files of theirs are there already; None: new ones."""

    format: str = "flac"
    """In which whoever asks wants to be told of the sound."""

    levels: int = 0
    """That the songs have from the beginning."""

    files: Sequence[Mapping[str, Any]] = ()
    """Rows of the files that are there, of an only song."""

    @property
    def digest(self) -> str:
        """What the key stands for."""
        parts = [self.titles, self.priority, self.family, [r.to_dict() for r in self.requests]]
        text = json.dumps(parts, sort_keys=True) if self.asked is None else self.asked
        return hashlib.sha256(text.encode()).hexdigest()


def engine_config(settings: Settings, executor: str) -> DBOSConfig:
    """Return how a worker runs workflows: its name must be unique, and the same at every start."""
    return DBOSConfig(
        name=APPLICATION,
        system_database_url=settings.database_url,
        executor_id=executor,
        application_version=VERSION,
        run_migrations=False,
        serializer=DBOSPortableJSONSerializer(),
        log_level="ERROR",
    )


def new_id() -> str:
    """Return 128 random bits in hexadecimal: nobody guesses another's song."""
    return secrets.token_hex(16)


class Jobs:
    """The way from a request to a workflow, and what can be done with it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.engine = connect(settings)
        self.ledger = Ledger(engine=self.engine)
        self._client = DBOSClient(
            system_database_engine=self.engine,
            system_database_url=settings.database_url,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            retry_connection_errors=False,
            lazy=True,
        )
        self._pending: list[tuple[Order, Future[list[str]]]] = []
        self._lock, self._writing = threading.Lock(), threading.Lock()

    def close(self) -> None:
        """Give connections back."""
        self._client.destroy()
        self.engine.dispose()

    # ---------------------------------------------------------------------------------- submit

    def submit(self, order: Order) -> list[str]:
        """Take an order; when this returns, it is on the disk.

        Orders that come at the same time share a transaction.

        Returns:
            The ids of its songs, those of before if the key was used for the same.

        Raises:
            Conflict: the key was used for something else.
            CapacityError: too many songs wait.
            OSError: the database cannot be written.
        """
        future: Future[list[str]] = Future()
        with self._lock:
            self._pending.append((order, future))
        # whoever comes first writes for all who came by then; the others find their answer there
        with self._writing:
            if not future.done():
                with self._lock:
                    batch = self._pending[:MOST_AT_ONCE]
                    del self._pending[:MOST_AT_ONCE]
                self._write(batch)
        return future.result()

    def _write(self, batch: Sequence[tuple[Order, Future[list[str]]]]) -> None:
        answers: list[list[str] | KhalaError] = []
        try:
            with self.engine.begin() as db:
                # takes the write lock before anything is read
                db.execute(sa.delete(KEYS).where(KEYS.c.at < time.time() - 7 * 24 * 3600))
                for order, _ in batch:
                    try:
                        answers.append(self._take(db, order))
                    except KhalaError as error:
                        answers.append(error)
        except Exception as error:  # noqa: BLE001 - it is theirs who asked
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, KhalaError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _take(self, db: sa.Connection, order: Order) -> list[str]:
        """Write an order's songs and jobs; nothing is written if this raises."""
        if order.key is not None:
            mine = sa.and_(KEYS.c.owner == order.owner, KEYS.c.key == order.key)
            known = db.execute(sa.select(KEYS).where(mine)).mappings().first()
            if known is not None:
                if known["digest"] != order.digest:
                    raise Conflict(
                        "this Idempotency-Key was used for another request: the same key is for "
                        "sending the same request again"
                    )
                return list(known["songs"])
        self._check_room(db, order)
        songs = list(order.ids or (new_id() for _ in order.requests))
        family = order.family or songs[0]
        for song, request, title in zip(songs, order.requests, order.titles, strict=True):
            now = time.time()
            row = {
                "id": song, "owner": order.owner, "title": title, "state": "queued",
                "request": request.to_dict(), "family": family, "priority": order.priority,
                "words": searchable(title, request), "created_at": now, "queued_at": now,
                "levels_wanted": request.levels, "job": f"{song}-1", "levels": order.levels,
                "format": order.format,
            }  # fmt: skip
            db.execute(SONGS.insert().values(**row))
            for file in order.files:
                db.execute(FILES.insert().values(song=song, **file))
            stored = db.execute(sa.select(SONGS).where(SONGS.c.id == song)).mappings().one()
            self._enqueue(db, stored)
            tell(db, stored, "song", public(stored))
        if order.key is not None:
            db.execute(
                KEYS.insert().values(
                    owner=order.owner, key=order.key, digest=order.digest, songs=songs,
                    at=time.time(),
                )
            )  # fmt: skip
        return songs

    def _check_room(self, db: sa.Connection, order: Order) -> None:
        limits = self._settings.limits
        waiting = sa.select(sa.func.count()).where(SONGS.c.state == "queued")
        num, room = len(order.requests), "wait until some are made, or cancel some"
        for found, most, whose in (
            (db.scalar(waiting) or 0, limits.queue, ""),
            (db.scalar(waiting.where(SONGS.c.owner == order.owner)) or 0, limits.queue_each,
             " of yours"),
        ):  # fmt: skip
            if found + num > most:
                raise CapacityError(f"{found} songs{whose} wait, and at most {most} may: {room}")

    def _enqueue(self, db: sa.Connection, row: Row) -> None:
        options: EnqueueOptions = {
            "queue_name": QUEUE,
            "workflow_name": WORKFLOW,
            "workflow_id": row["job"],
            "app_version": VERSION,
            "priority": row["priority"],
        }
        self._client.enqueue_in_transaction(db, options, row["job"])

    # ---------------------------------------------------------------------------------- control

    def go_on(self, row: Row, *, levels: int | None = None) -> Row:
        """Have a song made further: after a pause, a failure, a cancellation, or to more levels.

        Raises:
            Conflict: it is being made, or has all that is asked.
        """
        wanted = row["levels_wanted"] if levels is None else levels
        if row["state"] in LIVE:
            raise Conflict(f"this song is {row['state']}: pause or cancel it first")
        if wanted < row["levels"]:
            raise RequestError(
                f"levels is {wanted}, but {row['levels']} are there already: give "
                f"{row['levels']} to 64"
            )
        if row["state"] == "done" and wanted <= row["levels"]:
            raise Conflict(f"this song has {row['levels']} levels already: ask for more")
        with self.engine.begin() as db:
            values = {
                **({"levels": 0, "is_part": False} if row["is_part"] else {}),
                "state": "queued", "stage": "", "wish": "", "error": None, "crashes": 0, "kills": 0,
                "levels_wanted": wanted, "queued_at": time.time(), "finished_at": None, "done": 0,
                "total": 0, "eta_s": None, "jobs": row["jobs"] + 1,
                "job": f"{row['id']}-{row['jobs'] + 1}",
            }  # fmt: skip
            same = sa.and_(
                SONGS.c.id == row["id"], SONGS.c.job == row["job"], SONGS.c.wish != "delete"
            )
            idle = SONGS.c.state.not_in(LIVE)
            if db.execute(sa.update(SONGS).where(same, idle).values(**values)).rowcount == 0:
                raise Conflict("this song was changed by somebody else just now")
            stored = db.execute(sa.select(SONGS).where(SONGS.c.id == row["id"])).mappings().one()
            self._enqueue(db, stored)
            tell(db, stored, "song", public(stored))
            return stored

    def stop(self, row: Row, wish: str) -> Row:
        """Have a song cancelled or paused, with what is finished; at once if it only waits.

        Raises:
            Conflict: it is not being made.
        """
        state = {"cancel": "cancelled", "pause": "paused"}[wish]
        now = {"finished_at": time.time()} if wish == "cancel" else {}
        stopped = self.ledger.change(
            row["id"], {"state": state, "wish": "", "run": "", **now}, states=("queued",)
        )
        if stopped is None and wish == "cancel":
            stopped = self.ledger.change(
                row["id"], {"state": state, "wish": "", "run": "", **now}, states=("paused",)
            )
        if stopped is None:
            stopped = self.ledger.change(row["id"], {"wish": wish}, states=("working",))
        if stopped is None:
            raise Conflict(f"this song is {row['state']}: there is nothing to {wish}")
        return stopped

    def delete(self, row: Row) -> None:
        """Have a song disappear; its files follow when no worker has them in hand."""
        gone = {"id": row["id"]}
        self.ledger.change(row["id"], {"wish": "delete"}, type="deleted", data=gone)


def searchable(title: str, request: Mapping[str, Any] | SongRequest) -> str:
    """Return the text in which a song is searched."""
    values = request.to_dict() if isinstance(request, SongRequest) else request
    return f"{title}\n{values['prompt']}\n{values['lyrics']}".casefold()
