"""What is asked for, and what is decided about it at the desk: taken, known already, or refused."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from khala.errors import CapacityError, KhalaError
from khala.serve.durable import rank_of
from khala.serve.settings import Limits
from khala.serve.tables import KEYS, SONGS
from khala.song import SongRequest

__all__ = ["Conflict", "Desk", "Order", "new_id", "searchable"]


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


@dataclass(kw_only=True)
class Desk:
    """Orders of one transaction, and what is decided about each."""

    limits: Limits
    waiting: Counter[str]
    """Songs that wait, by owner."""

    known: dict[tuple[str, str], tuple[str, list[str]]]
    """Digest and songs of the keys that were used, by owner and key."""

    answers: list[list[str] | KhalaError] = field(default_factory=list)
    songs: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    new_keys: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, db: sa.Connection, orders: Sequence[Order], limits: Limits) -> Desk:
        """Read what decides about them."""
        queued = (
            sa.select(SONGS.c.owner, sa.func.count())
            .where(SONGS.c.state == "queued")
            .group_by(SONGS.c.owner)
        )
        keys = {order.key for order in orders if order.key is not None}
        used = sa.select(KEYS).where(KEYS.c.key.in_(keys))
        rows = db.execute(used).mappings().all() if keys else []
        return cls(
            limits=limits,
            waiting=Counter({row[0]: row[1] for row in db.execute(queued)}),
            known={(row["owner"], row["key"]): (row["digest"], row["songs"]) for row in rows},
        )

    def take(self, order: Order, now: float) -> None:
        """Decide about an order; one that is refused leaves nothing."""
        try:
            self.answers.append(self._taken(order, now))
        except KhalaError as error:
            self.answers.append(error)

    def _taken(self, order: Order, now: float) -> list[str]:
        if order.key is not None and (order.owner, order.key) in self.known:
            digest, songs = self.known[order.owner, order.key]
            if digest != order.digest:
                raise Conflict(
                    "this Idempotency-Key was used for another request: the same key is for "
                    "sending the same request again"
                )
            return songs
        self._check_room(order)
        songs = list(order.ids or (new_id() for _ in order.requests))
        for song, request, title in zip(songs, order.requests, order.titles, strict=True):
            self.songs.append({
                "id": song, "owner": order.owner, "title": title, "state": "queued",
                "request": request.to_dict(), "family": order.family or songs[0],
                "priority": order.priority,
                "rank": rank_of(priority=order.priority, levels=order.levels, jobs=1),
                "words": searchable(title, request), "created_at": now, "queued_at": now,
                "levels_wanted": request.levels,
                "job": f"{song}-1", "levels": order.levels, "format": order.format,
            })  # fmt: skip
            # each is a little later than the one before, so that lists and queue keep the order
            now += 1e-6
        self.files += [{"song": songs[0], **file} for file in order.files]
        self.waiting[order.owner] += len(songs)
        if order.key is not None:
            self.known[order.owner, order.key] = (order.digest, songs)
            self.new_keys.append({
                "owner": order.owner, "key": order.key, "digest": order.digest, "songs": songs,
                "at": now,
            })  # fmt: skip
        return songs

    def _check_room(self, order: Order) -> None:
        num, room = len(order.requests), "wait until some are made, or cancel some"
        for found, most, whose in (
            (self.waiting.total(), self.limits.queue, ""),
            (self.waiting[order.owner], self.limits.queue_each, " of yours"),
        ):
            if found + num > most:
                raise CapacityError(f"{found} songs{whose} wait, and at most {most} may: {room}")


def new_id() -> str:
    """Return 128 random bits in hexadecimal: nobody guesses another's song."""
    return secrets.token_hex(16)


def searchable(title: str, request: Mapping[str, Any] | SongRequest) -> str:
    """Return the text in which a song is searched."""
    values = request.to_dict() if isinstance(request, SongRequest) else request
    return f"{title}\n{values['prompt']}\n{values['lyrics']}".casefold()
