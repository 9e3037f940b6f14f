"""The line of songs that wait: who stands where, and how long it will take."""

from __future__ import annotations

import bisect
import itertools
import time
from dataclasses import dataclass, field

from khala.serve.ledger import Ledger, Row

__all__ = ["Line"]

KEPT_S = 1.0


@dataclass(kw_only=True)
class Line:
    """The queue as it was a moment ago."""

    ledger: Ledger
    _places: list[tuple[int, float]] = field(default_factory=list)
    _ahead_s: list[float] = field(default_factory=lambda: [0.0])
    _pace: float | None = None
    _looked_s: float = -KEPT_S

    @property
    def is_fresh(self) -> bool:
        """Whether it was looked at a moment ago."""
        return time.monotonic() - self._looked_s <= KEPT_S

    def look(self) -> None:
        """Read the queue."""
        queue = self.ledger.queue()
        self._places = [(rank, at) for rank, at, _ in queue]
        self._ahead_s = [0.0, *itertools.accumulate(seconds for _, _, seconds in queue)]
        self._pace = self.ledger.speed()
        self._looked_s = time.monotonic()

    def place(self, row: Row, workers: int) -> tuple[int, float | None]:
        """Return a waiting song's position (1: the next) and the seconds until it is begun.

        Args:
            row: of the song.
            workers: that make songs; without any, nobody knows the seconds.
        """
        if not self.is_fresh:
            self.look()
        ahead = bisect.bisect_left(self._places, (row["rank"], row["queued_at"]))
        if self._pace is None or not workers:
            return ahead + 1, None
        return ahead + 1, round(self._ahead_s[ahead] * self._pace / workers, 1)
