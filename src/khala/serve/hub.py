"""Events to whoever listens: one look at the database for all of them, and none if nobody does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool

from khala.errors import CapacityError
from khala.serve.ledger import Ledger, Row

__all__ = ["Hub"]

LOOK_EVERY_S = 0.2
IDLE_EVERY_S = 0.6
"""When nothing has happened for a while: who listens to an idle service should cost nothing."""

IDLE_AFTER_S = 5.0
QUIET_S = 15.0
"""After so long without an event a comment is sent, so that a lost connection is noticed."""

MOST_WAITING = 1_000
"""Events that a listener may lag behind; then its stream ends, and it begins again where it was."""


@dataclass(eq=False, kw_only=True)
class _Listener:
    owner: str
    song: str | None
    last: int
    queue: asyncio.Queue[Row | None] = field(default_factory=lambda: asyncio.Queue(MOST_WAITING))


class Hub:
    """The listeners of one server process."""

    def __init__(self, ledger: Ledger, most: int) -> None:
        self._ledger, self._most = ledger, most
        self._listeners: set[_Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    @property
    def num_listeners(self) -> int:
        """How many streams are open."""
        return len(self._listeners)

    async def events(
        self, owner: str, *, song: str | None, after: int | None
    ) -> AsyncIterator[bytes]:
        """Return what a listener is sent, as server-sent events.

        Args:
            owner: whose songs.
            song: only of this one.
            after: the last event that was received; None: only what comes.

        Raises:
            CapacityError: too many listen.
        """
        if len(self._listeners) >= self._most:
            raise CapacityError(f"{self._most} streams of events are open, and no more are: wait")
        now = await run_in_threadpool(self._ledger.last_event)
        last = now if after is None or after > now else after
        return self._stream(_Listener(owner=owner, song=song, last=last))

    def close(self) -> None:
        """End all streams."""
        self._is_over = True
        for one in self._listeners:
            _end(one)

    async def _stream(self, one: _Listener) -> AsyncIterator[bytes]:
        yield f"retry: 1000\nid: {one.last}\nevent: hello\ndata: {{}}\n\n".encode()
        async with self._listening(one):
            # what came in between is read first; what the queue has of it is left out below
            while missed := await run_in_threadpool(
                self._ledger.events, one.last, song=one.song, limit=200
            ):
                for row in missed:
                    if row["owner"] == one.owner:
                        yield encoded(row)
                    one.last = row["seq"]
            while not self._is_over:
                try:
                    async with asyncio.timeout(QUIET_S):
                        new = await one.queue.get()
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                if new is None:
                    return
                if new["seq"] > one.last:
                    one.last = new["seq"]
                    yield encoded(new)

    @asynccontextmanager
    async def _listening(self, one: _Listener) -> AsyncIterator[None]:
        self._listeners.add(one)
        if self._task is None or self._task.done():
            start = await run_in_threadpool(self._ledger.last_event)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._look(start))
        try:
            yield
        finally:
            self._listeners.discard(one)

    async def _look(self, last: int) -> None:
        """Read new events while anybody listens."""
        busy_s = time.monotonic()
        while self._listeners and not self._is_over:
            is_idle = time.monotonic() - busy_s > IDLE_AFTER_S
            await asyncio.sleep(IDLE_EVERY_S if is_idle else LOOK_EVERY_S)
            try:
                rows = await run_in_threadpool(self._ledger.events, last)
            except sa.exc.SQLAlchemyError:
                continue  # it is said to whoever asks for something; here it is waited for
            busy_s = time.monotonic() if rows else busy_s
            for row in rows:
                last = row["seq"]
                for one in self._listeners:
                    if row["owner"] == one.owner and one.song in (None, row["song"]):
                        _put(one, row)


def _put(one: _Listener, row: Row) -> None:
    try:
        one.queue.put_nowait(row)
    except asyncio.QueueFull:
        _end(one)


def _end(one: _Listener) -> None:
    while not one.queue.empty():
        one.queue.get_nowait()
    one.queue.put_nowait(None)


def encoded(row: Row) -> bytes:
    """Return an event as it goes over the wire."""
    data = json.dumps({"song": row["song"], **row["data"]}, separators=(",", ":"))
    return f"id: {row['seq']}\nevent: {row['type']}\ndata: {data}\n\n".encode()
