"""The tables of a service, beside those of its job engine in the same database."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dbos import DBOS
from sqlalchemy import event

from khala.errors import ConfigError
from khala.serve.settings import Settings

__all__ = [
    "ENGINE_LOCK",
    "EVENTS",
    "FILES",
    "KEYS",
    "META",
    "SONGS",
    "WORKERS",
    "connect",
    "prepare",
]

VERSION = 1
"""Of these tables; a database of another one is refused."""

ENGINE_LOCK = 0x4B68616C
"""Taken by whoever numbers events, so that numbers become visible in their order (PostgreSQL)."""

META = sa.MetaData()

SONGS = sa.Table(
    "khala_songs",
    META,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False, default=""),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("stage", sa.Text, nullable=False, default=""),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("words", sa.Text, nullable=False),  # lower case, for searching
    sa.Column("family", sa.String(32), nullable=False),  # variants of one request share it
    sa.Column("priority", sa.Integer, nullable=False, default=5),
    sa.Column("rank", sa.Integer, nullable=False),  # in the queue, see durable.rank_of
    sa.Column("kept", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("queued_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Column("levels", sa.Integer, nullable=False, default=0),  # finished
    sa.Column("is_part", sa.Boolean, nullable=False, default=False),  # of a sketch
    sa.Column("levels_wanted", sa.Integer, nullable=False),
    sa.Column("frames", sa.Integer, nullable=False, default=0),
    sa.Column("duration_s", sa.Float),
    sa.Column("done", sa.Integer, nullable=False, default=0),  # of the stage
    sa.Column("total", sa.Integer, nullable=False, default=0),
    sa.Column("eta_s", sa.Float),
    sa.Column("spent_s", sa.Float, nullable=False, default=0.0),
    sa.Column("error", sa.JSON),
    sa.Column("notices", sa.JSON, nullable=False, default=list),
    sa.Column("model", sa.Text, nullable=False, default=""),
    sa.Column("format", sa.Text, nullable=False, default="flac"),
    sa.Column("job", sa.Text, nullable=False),  # the workflow that makes it
    sa.Column("jobs", sa.Integer, nullable=False, default=1),  # workflows so far
    sa.Column("run", sa.Text, nullable=False, default=""),  # who may write
    sa.Column("worker", sa.Text, nullable=False, default=""),
    sa.Column("wish", sa.Text, nullable=False, default=""),  # "", cancel, pause or delete
    sa.Column("crashes", sa.Integer, nullable=False, default=0),  # workers that died of it
    sa.Column("kills", sa.Integer, nullable=False, default=0),  # that somebody killed
    sa.Index("khala_songs_new", "owner", "created_at"),
    sa.Index("khala_songs_state", "state", "rank", "queued_at"),
)

FILES = sa.Table(
    "khala_files",
    META,
    sa.Column("song", sa.String(32), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("bytes", sa.Integer, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("levels", sa.Integer, nullable=False),
)

EVENTS = sa.Table(
    "khala_events",
    META,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("song", sa.String(32), nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("khala_events_song", "song", "seq"),
    sqlite_autoincrement=True,
)

KEYS = sa.Table(
    "khala_keys",
    META,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("songs", sa.JSON, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

WORKERS = sa.Table(
    "khala_workers",
    META,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("life", sa.Text, nullable=False),  # one start of it
    sa.Column("state", sa.Text, nullable=False),  # alive, gone, or reaped: its songs were given on
    sa.Column("beats", sa.Integer, nullable=False),
    sa.Column("about", sa.JSON, nullable=False),  # model, device, limits
    sa.Column("at", sa.Float, nullable=False),
)

_VERSIONS = sa.Table("khala_version", META, sa.Column("version", sa.Integer, primary_key=True))


def connect(settings: Settings, *, pool: int = 20) -> sa.Engine:
    """Return the service's way to its database; nothing is opened yet."""
    if not settings.is_sqlite:
        return sa.create_engine(
            settings.database_url,
            pool_size=pool,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 5},
        )
    engine = sa.create_engine(settings.database_url, pool_size=pool, connect_args={"timeout": 30.0})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        """Have transactions take the write lock at once: waiting for it later would be deadlock."""
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA busy_timeout=30000")
        connection.execute("PRAGMA synchronous=FULL")

    return engine


def prepare(settings: Settings) -> None:
    """Make the tables where there are none; several processes may do so at once.

    Raises:
        ConfigError: the database was made by another version.
    """
    if settings.is_sqlite:
        path = settings.database_url.removeprefix("sqlite:///")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path, timeout=30.0) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    DBOS.migrate(settings.database_url)
    engine = connect(settings, pool=1)
    try:
        with engine.begin() as db:
            if settings.is_sqlite:
                db.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                db.execute(sa.select(sa.func.pg_advisory_xact_lock(ENGINE_LOCK)))
            META.create_all(db)
            found = db.scalar(sa.select(_VERSIONS.c.version))
            if found is None:
                db.execute(_VERSIONS.insert().values(version=VERSION))
            elif found != VERSION:
                raise ConfigError(
                    f"the database is of version {found}, this program knows {VERSION}: "
                    "use the program that made it, or another data folder"
                )
    finally:
        engine.dispose()
