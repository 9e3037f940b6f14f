"""The job engine (DBOS) as this service uses it: names, versions, and how a job is queued."""

from __future__ import annotations

import sqlalchemy as sa
from dbos import DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions

from khala.serve.ledger import Row
from khala.serve.settings import Settings

__all__ = ["QUEUE", "WORKFLOW", "engine_client", "engine_config", "enqueue", "rank_of"]

QUEUE = "songs"
WORKFLOW = "song"
APPLICATION = "khala"
VERSION = "jobs-1"
"""Of the workflow's steps: jobs of another one would not be taken over."""

RANKS = 10
"""Of one priority, which people choose."""

MOST_TURNS = 20
"""Times that a song gives way to sketches; after that it waits no more than they do."""


def rank_of(*, priority: int, levels: int, jobs: int) -> int:
    """Return where a job stands in the queue: lower is earlier, then who came first.

    Of the same priority songs without a sketch come before those that only become sharper: who
    waits for the first sound waits in silence.

    Args:
        priority: 1 to 9.
        levels: that the song has.
        jobs: of the song so far.
    """
    return priority * RANKS + (RANKS // 2 if levels and jobs < MOST_TURNS else 0)


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


def engine_client(settings: Settings, engine: sa.Engine) -> DBOSClient:
    """Return a way to queue and see workflows."""
    return DBOSClient(
        system_database_engine=engine,
        system_database_url=settings.database_url,
        serializer=DBOSPortableJSONSerializer(),
        application_name=APPLICATION,
        retry_connection_errors=False,
        lazy=True,
    )


def enqueue(client: DBOSClient, db: sa.Connection, row: Row) -> None:
    """Queue a song's job in a transaction."""
    options: EnqueueOptions = {
        "queue_name": QUEUE,
        "workflow_name": WORKFLOW,
        "workflow_id": row["job"],
        "app_version": VERSION,
        "priority": row["rank"],
    }
    client.enqueue_in_transaction(db, options, row["job"])
