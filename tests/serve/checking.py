"""Whether a service kept its word: every song is there once, is the right one, and no more."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import sqlalchemy as sa
from fake_maker import codes

from khala.serve.files import open_files
from khala.serve.provenance import verify
from khala.serve.settings import Settings
from khala.serve.tables import FILES, SONGS, connect
from khala.song import Song


def check(
    settings: Settings, wanted: Mapping[str, int], poison: Iterable[str] = ()
) -> dict[str, Any]:
    """Compare a service's database and files with what was asked.

    Args:
        settings: of the service, which is stopped or idle.
        wanted: the seed of every song that was taken, by its id.
        poison: ids of songs that must have been set aside.
    """
    engine, files = connect(settings), open_files(settings)
    with engine.connect() as db:
        rows = {row["id"]: row for row in db.execute(sa.select(SONGS)).mappings()}
        known: dict[str, dict[str, Any]] = {}
        for row in db.execute(sa.select(FILES)).mappings():
            known.setdefault(row["song"], {})[row["name"]] = row
        workflows = dict(db.execute(_workflows(settings)).all())
    engine.dispose()
    poisoned, bad = set(poison), Counter[str]()
    for song, seed in wanted.items():
        row = rows.get(song)
        if row is None:
            bad["lost"] += 1
            continue
        if song in poisoned:
            bad["not set aside"] += row["state"] != "failed" or row["crashes"] < 3
            continue
        if row["state"] != "done" or row["levels"] != row["levels_wanted"]:
            bad[f"{row['state']}"] += 1
            continue
        made = Song.from_bytes(files.read(song, "song.khala"))
        right = codes(made.request, made.num_levels)
        bad["wrong song"] += not (seed == made.seed and np.array_equal(made.codes_QT, right))
    bad["twice"] = len(rows) - len(wanted)
    for song in rows:
        for name, row in known.get(song, {}).items():
            data = files.read(song, name)
            digest = hashlib.sha256(data).hexdigest()
            bad["wrong file"] += (len(data), digest) != (row["bytes"], row["sha256"])
            if re.fullmatch(r"audio-64\.flac", name) and int(song[:2], 16) < 16:
                bad["no credentials"] += not verify(data, ".flac").is_intact
        left = set(files.names(song)) - set(known.get(song, {}))
        bad["left-over files"] += len(left)
    bad["left-over songs"] = len(set(files.songs()) - set(rows))
    bad["left-over temporary files"] = len(list(settings.data.rglob("*.tmp")))
    if settings.is_sqlite:
        with sqlite3.connect(settings.data / "khala.db") as db:
            bad["broken database"] = int(db.execute("PRAGMA integrity_check").fetchone()[0] != "ok")
    return {
        "songs": len(rows), "workflows": workflows, "bad": {k: v for k, v in bad.items() if v},
        "kills_of_songs": sum(row["kills"] for row in rows.values()),
    }  # fmt: skip


def _workflows(settings: Settings) -> sa.TextClause:
    table = "workflow_status" if settings.is_sqlite else "dbos.workflow_status"
    return sa.text(f"SELECT status, count(*) FROM {table} GROUP BY status")
