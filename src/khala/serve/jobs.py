"""Asking for songs, durably: a song that was taken is made, whatever happens in between.

A job is one workflow of the engine (DBOS) that makes a song as far as was asked. Workflows only
ever run to their end or die with their worker. Pausing, cancelling and failing are ends like any
other, and going on is a new job that begins with what the song has; so nothing depends on how far
the engine's own state is.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import sqlalchemy as sa

from khala.errors import KhalaError, RequestError
from khala.serve.durable import engine_client, enqueue, rank_of
from khala.serve.ledger import LIVE, Ledger, Row, tell
from khala.serve.orders import Conflict, Desk, Order
from khala.serve.settings import Settings
from khala.serve.tables import FILES, KEYS, SONGS, connect

__all__ = ["Jobs"]

KEYS_KEPT_S = 7 * 24 * 3600.0
"""How long a request can be sent again with its key."""

MOST_AT_ONCE = 64
"""Orders that are written in one transaction: a disk's answer takes longer than the rest."""


class Jobs:
    """The way from a request to a workflow, and what can be done with it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.engine = connect(settings)
        self.ledger = Ledger(engine=self.engine)
        self._client = engine_client(settings, self.engine)
        self._orders: queue.SimpleQueue[tuple[Order, Future[list[Row]]] | None] = (
            queue.SimpleQueue()
        )
        self._writer = threading.Thread(target=self._write_orders, daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Write what was submitted, and give connections back."""
        self._orders.put(None)
        self._writer.join()
        self._client.destroy()
        self.engine.dispose()

    # ---------------------------------------------------------------------------------- submit

    def submit(self, order: Order) -> list[Row]:
        """Take an order; when this returns, it is on the disk. See `submitting`."""
        return self.submitting(order).result()

    def submitting(self, order: Order) -> Future[list[Row]]:
        """Have an order taken; the future has its answer when it is on the disk.

        Orders that come at the same time share a transaction.

        Returns:
            The rows of its songs, those of before if the key was used for the same.

        Raises:
            Conflict: the key was used for something else.
            CapacityError: too many songs wait.
            SQLAlchemyError: the database cannot be written.
        """
        future: Future[list[Row]] = Future()
        self._orders.put((order, future))
        return future

    def _write_orders(self) -> None:
        """Write orders, as many at once as have come, until there will be no more."""
        while (first := self._orders.get()) is not None:
            batch = [first]
            while len(batch) < MOST_AT_ONCE and not self._orders.empty():
                following = self._orders.get()
                if following is None:
                    self._orders.put(None)
                    break
                batch.append(following)
            self._write(batch)

    def _write(self, batch: Sequence[tuple[Order, Future[list[Row]]]]) -> None:
        try:
            with self.engine.begin() as db:
                answers = self._take(db, [order for order, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is theirs who asked
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, KhalaError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _take(self, db: sa.Connection, orders: Sequence[Order]) -> list[list[Row] | KhalaError]:
        """Write songs, jobs and events of some orders; return what each order is answered."""
        now = time.time()
        # takes the write lock before anything is read
        db.execute(sa.delete(KEYS).where(KEYS.c.at < now - KEYS_KEPT_S))
        desk = Desk.open(db, orders, self._settings.limits)
        for order in orders:
            desk.take(order, now)
        if desk.songs:
            db.execute(SONGS.insert(), desk.songs)
        for table, rows in ((FILES, desk.files), (KEYS, desk.new_keys)):
            if rows:
                db.execute(table.insert(), rows)
        wanted = {song for answer in desk.answers if isinstance(answer, list) for song in answer}
        stored = sa.select(SONGS).where(SONGS.c.id.in_(wanted))
        rows_by_id = {row["id"]: row for row in db.execute(stored).mappings()}
        for one in desk.songs:
            enqueue(self._client, db, rows_by_id[one["id"]])
        tell(db, [(rows_by_id[one["id"]], "song", None) for one in desk.songs])
        return [
            answer if isinstance(answer, KhalaError)
            else [rows_by_id[song] for song in answer if song in rows_by_id]
            for answer in desk.answers
        ]  # fmt: skip

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
        levels_kept = 0 if row["is_part"] else row["levels"]
        rank = rank_of(priority=row["priority"], levels=levels_kept, jobs=row["jobs"] + 1)
        with self.engine.begin() as db:
            values = {
                "levels": levels_kept, "is_part": False, "rank": rank,
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
            enqueue(self._client, db, stored)
            tell(db, [(stored, "song", None)])
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
