"""What is known of every song: rows, their files and what happened to them, each change an event.

A change and the event that tells of it are one transaction, so whoever reads the events in order
knows the rows. Events are numbered without gaps in time: a number that is seen is never followed by
a smaller one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa

from khala.serve.tables import ENGINE_LOCK, EVENTS, FILES, SONGS

__all__ = ["LIVE", "Ledger", "Row", "public", "shown_title"]

Row: TypeAlias = sa.RowMapping
"""Columns of a row, by name."""

LIVE = ("queued", "working")
"""States in which something is going to happen by itself."""

EVENTS_KEPT_S = 24 * 3600.0
"""How long events can be read again; a song itself is kept until it is deleted."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The rows of a service's database."""

    engine: sa.Engine

    # ------------------------------------------------------------------------------------- read

    def song(self, song: str, owner: str | None = None) -> Row | None:
        """Return a song's row, if there is one and it is the owner's; None as owner: anybody's."""
        wanted = sa.select(SONGS).where(SONGS.c.id == song)
        if owner is not None:
            wanted = wanted.where(SONGS.c.owner == owner, SONGS.c.wish != "delete")
        with self.engine.connect() as db:
            return db.execute(wanted).mappings().first()

    def songs(
        self,
        owner: str,
        *,
        words: str = "",
        states: Sequence[str] = (),
        kept: bool | None = None,
        family: str | None = None,
        before: tuple[float, str] | None = None,
        limit: int = 50,
    ) -> list[Row]:
        """Return an owner's songs, newest first.

        Args:
            owner: whose.
            words: all of them stand in title, prompt or lyrics.
            states: any of them; none: all.
            kept: only those that are marked so, or are not.
            family: only variants of one request.
            before: the time and the id of the last song that was seen.
            limit: how many.
        """
        wanted = sa.select(SONGS).where(SONGS.c.owner == owner, SONGS.c.wish != "delete")
        for word in words.casefold().split():
            wanted = wanted.where(SONGS.c.words.contains(word, autoescape=True))
        if states:
            wanted = wanted.where(SONGS.c.state.in_(states))
        if kept is not None:
            wanted = wanted.where(SONGS.c.kept == kept)
        if family is not None:
            wanted = wanted.where(SONGS.c.family == family)
        if before is not None:
            at, song = before
            older = sa.or_(
                SONGS.c.created_at < at, sa.and_(SONGS.c.created_at == at, SONGS.c.id < song)
            )
            wanted = wanted.where(older)
        wanted = wanted.order_by(SONGS.c.created_at.desc(), SONGS.c.id.desc()).limit(limit)
        with self.engine.connect() as db:
            return list(db.execute(wanted).mappings())

    def files(self, song: str) -> dict[str, Row]:
        """Return what files a song has, by name."""
        with self.engine.connect() as db:
            rows = db.execute(sa.select(FILES).where(FILES.c.song == song)).mappings()
            return {row["name"]: row for row in rows}

    def events(self, after: int, *, song: str | None = None, limit: int = 500) -> list[Row]:
        """Return the events after a number, in order."""
        wanted = sa.select(EVENTS).where(EVENTS.c.seq > after).order_by(EVENTS.c.seq).limit(limit)
        if song is not None:
            wanted = wanted.where(EVENTS.c.song == song)
        with self.engine.connect() as db:
            return list(db.execute(wanted).mappings())

    def last_event(self) -> int:
        """Return the number of the newest event, 0 if there is none."""
        with self.engine.connect() as db:
            return db.scalar(sa.select(sa.func.max(EVENTS.c.seq))) or 0

    def queue(self) -> list[tuple[int, float, float]]:
        """Return rank, time and seconds of every song that waits, the next one first."""
        seconds = SONGS.c.request["duration_s"].as_float()
        wanted = (
            sa.select(SONGS.c.rank, SONGS.c.queued_at, seconds)
            .where(SONGS.c.state == "queued")
            .order_by(SONGS.c.rank, SONGS.c.queued_at)
        )
        with self.engine.connect() as db:
            return [(row[0], row[1], row[2]) for row in db.execute(wanted)]

    def somebody_waits(self, rank: int) -> bool:
        """Whether a song waits that comes before a rank."""
        wanted = sa.select(SONGS.c.id).where(SONGS.c.state == "queued", SONGS.c.rank < rank)
        with self.engine.connect() as db:
            return db.scalar(wanted.limit(1)) is not None

    def counts(self, owner: str | None = None) -> dict[str, int]:
        """Return the number of songs in each state."""
        wanted = sa.select(SONGS.c.state, sa.func.count()).group_by(SONGS.c.state)
        if owner is not None:
            wanted = wanted.where(SONGS.c.owner == owner)
        with self.engine.connect() as db:
            return {row[0]: row[1] for row in db.execute(wanted)}

    def speed(self) -> float | None:
        """Return the seconds that a second of song lately took to make; None: nobody knows yet."""
        lately = (
            sa.select(SONGS.c.spent_s, SONGS.c.duration_s)
            .where(SONGS.c.state == "done", SONGS.c.duration_s > 0, SONGS.c.spent_s > 0)
            .order_by(SONGS.c.finished_at.desc())
            .limit(20)
        )
        with self.engine.connect() as db:
            rows = db.execute(lately).all()
        return sum(row[0] for row in rows) / sum(row[1] for row in rows) if rows else None

    # ------------------------------------------------------------------------------------ write

    def change(
        self,
        song: str,
        values: Mapping[str, Any],
        *,
        run: str | None = None,
        states: Iterable[str] | None = None,
        type: str = "song",
        data: Mapping[str, Any] | None = None,
        files: Iterable[Mapping[str, Any]] = (),
        gone: Iterable[str] = (),
        also: Callable[[sa.Connection, Row], None] | None = None,
    ) -> Row | None:
        """Change a song's row and tell of it, all or nothing.

        Args:
            song: its id.
            values: columns.
            run: only if this run may still write: a worker that was given up for dead may not.
            states: only if the song is in one of these.
            type: of the event.
            data: of the event; None: what everybody may know of the song.
            files: rows of files that are now there.
            gone: names of files that are no longer there.
            also: what else belongs to the transaction; of it, and the row as it is then.

        Returns:
            The row as it is now, or None if it was not changed.
        """
        where = [SONGS.c.id == song]
        values = dict(values)
        if "wish" in values:  # to be deleted is the last wish
            last = SONGS.c.wish == "delete"
            values["wish"] = sa.case((last, "delete"), else_=values["wish"])
        if run is not None:
            where.append(SONGS.c.run == run)
        if states is not None:
            where.append(SONGS.c.state.in_(tuple(states)))
        with self.engine.begin() as db:
            if db.execute(sa.update(SONGS).where(*where).values(**values)).rowcount == 0:
                return None
            names = [*gone, *(one["name"] for one in files)]
            if names:
                db.execute(sa.delete(FILES).where(FILES.c.song == song, FILES.c.name.in_(names)))
            for one in files:
                db.execute(FILES.insert().values(song=song, **one))
            row = db.execute(sa.select(SONGS).where(SONGS.c.id == song)).mappings().one()
            if also is not None:
                also(db, row)
            tell(db, [(row, type, data)])
            return row

    def add_file(self, song: str, file: Mapping[str, Any]) -> None:
        """Note a file that nobody waits for."""
        with self.engine.begin() as db:
            same = (FILES.c.song == song, FILES.c.name == file["name"])
            db.execute(sa.delete(FILES).where(*same))
            if db.scalar(sa.select(SONGS.c.id).where(SONGS.c.id == song)) is not None:
                db.execute(FILES.insert().values(song=song, **file))

    def forget(self, song: str) -> None:
        """Remove a song's row, what is known of its files, and its events."""
        with self.engine.begin() as db:
            for table, column in ((SONGS, SONGS.c.id), (FILES, FILES.c.song)):
                db.execute(sa.delete(table).where(column == song))
            db.execute(sa.delete(EVENTS).where(EVENTS.c.song == song, EVENTS.c.type != "deleted"))

    def prune(self) -> None:
        """Remove events that are too old to be read again."""
        with self.engine.begin() as db:
            db.execute(sa.delete(EVENTS).where(EVENTS.c.at < time.time() - EVENTS_KEPT_S))


def tell(db: sa.Connection, what: Sequence[tuple[Row, str, Mapping[str, Any] | None]]) -> None:
    """Add events to a transaction, as its last statement.

    Args:
        db: the transaction.
        what: a song's row, the type of the event, and its data; None: what everybody may know.
    """
    if db.dialect.name == "postgresql":
        # numbers are given before they are visible: two at once could become visible in wrong order
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(ENGINE_LOCK)))
    at = time.time()
    rows = [
        {"song": row["id"], "owner": row["owner"], "type": type, "at": at,
         "data": public(row) if data is None else dict(data)}
        for row, type, data in what
    ]  # fmt: skip
    if rows:
        db.execute(EVENTS.insert(), rows)


def public(row: Row) -> dict[str, Any]:
    """Return what an event tells of a song: all that changes while it is made."""
    names = (
        "id", "state", "wish", "stage", "kept", "levels", "levels_wanted", "duration_s", "done",
        "total", "eta_s", "error", "notices", "finished_at",
    )  # fmt: skip
    return {"title": shown_title(row), **{name: row[name] for name in names}}


def shown_title(row: Row) -> str:
    """Return a song's title; of one without, its first line."""
    if row["title"]:
        return str(row["title"])
    request = row["request"]
    lines = (line.strip() for line in request["lyrics"].splitlines())
    words = next((line for line in lines if line and not line.startswith("[")), "")
    return " ".join((words or request["prompt"] or "Untitled").split())[:80]
