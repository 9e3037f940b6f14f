"""Which songs are worked on next. No torch: the engine asks, works, and says what it took.

A song waits until there is memory for all of it, is sketched frame by frame beside the others that
are, and gets its levels one pass at a time. Frames and levels take turns by the time they take, so
that neither a long queue of sketches nor a long song holds up the other; who came first is first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from khala.errors import CapacityError

__all__ = ["Kind", "Scheduler", "SongNeeds", "Work"]

Kind = Literal["frame", "level"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One thing to do next."""

    kind: Kind
    """"frame": write one of every song named; "level": give the songs named one more."""

    songs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SongNeeds:
    """Memory of one song in bytes, beside the weights."""

    held: int
    """From its beginning to its end."""

    passing: int
    """More while it is at work itself."""

    positions: int
    """That a pass of super-resolution reads."""


class Scheduler:
    """The order of work for songs that are known by numbers."""

    def __init__(
        self,
        *,
        most_songs: int,
        most_bytes: int | None,
        most_positions: int = 0,
        one_stage_at_a_time: bool = False,
    ) -> None:
        """Begin with no songs.

        Args:
            most_songs: that are worked on at once.
            most_bytes: that they may hold together; None: nobody counts.
            most_positions: that a pass reads of several songs; one alone may have more.
            one_stage_at_a_time: frames of all songs before levels of any, for models that are in
                memory in turns.
        """
        self._most_songs, self._most_bytes = most_songs, most_bytes
        self._most_positions, self._one_stage = most_positions, one_stage_at_a_time
        self._needs: dict[int, SongNeeds] = {}
        self._waiting: list[int] = []
        self._sketching: list[int] = []
        self._refining: list[int] = []
        self._spent_s: dict[Kind, float] = {"frame": 0.0, "level": 0.0}

    @property
    def waiting(self) -> Sequence[int]:
        """Songs that were not begun, first come first."""
        return tuple(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._needs

    def add(self, song: int, needs: SongNeeds) -> None:
        """Take a song.

        Raises:
            CapacityError: it would not fit even alone.
        """
        if not self._fits([needs]):
            raise CapacityError(
                f"this song needs {(needs.held + needs.passing) / 1e9:.2f} GB beside the model, "
                f"and at most {(self._most_bytes or 0) / 1e9:.2f} GB can be had: a shorter one "
                "needs less"
            )
        self._needs[song] = needs
        self._waiting.append(song)

    def admit(self) -> int | None:
        """Return the next song to begin, None if none waits or there is no room for it.

        Nobody overtakes: a long song at the front is not put off by short ones behind it.
        """
        working = self._sketching + self._refining
        if not self._waiting or len(working) >= self._most_songs:
            return None
        if self._one_stage and self._refining:
            return None
        song = self._waiting[0]
        if not self._fits([self._needs[one] for one in (*working, song)]):
            return None
        self._waiting.pop(0)
        self._sketching.append(song)
        return song

    def sketched(self, song: int) -> None:
        """Note that a song has all its frames and now gets levels."""
        self._waiting = [one for one in self._waiting if one != song]
        self._sketching = [one for one in self._sketching if one != song]
        self._refining.append(song)

    def leave(self, song: int) -> None:
        """Forget a song: finished, failed or cancelled, wherever it is."""
        self._needs.pop(song, None)
        for place in (self._waiting, self._sketching, self._refining):
            if song in place:
                place.remove(song)

    def next(self) -> Work | None:
        """Return what to do, None if there is nothing."""
        frames = Work(kind="frame", songs=tuple(self._sketching)) if self._sketching else None
        level = Work(kind="level", songs=self._passing()) if self._refining else None
        if frames is None or level is None:
            # who works alone owes nobody anything
            self._spent_s = {"frame": 0.0, "level": 0.0}
            return frames or level
        if self._one_stage or self._spent_s["frame"] <= self._spent_s["level"]:
            return frames
        return level

    def _passing(self) -> tuple[int, ...]:
        """Return the songs of the next pass: the first, and those after it that it has room for."""
        working = [self._needs[one] for one in self._sketching + self._refining]
        held = sum(one.held for one in working)
        songs: list[int] = []
        passing = positions = 0
        for song in self._refining:
            needs = self._needs[song]
            passing, positions = passing + needs.passing, positions + needs.positions
            has_room = self._most_bytes is None or held + passing <= self._most_bytes
            if songs and (positions > self._most_positions or not has_room):
                break
            songs.append(song)
        return tuple(songs)

    def _fits(self, songs: Sequence[SongNeeds]) -> bool:
        """Whether songs can be worked on together: they take turns at passes."""
        if self._most_bytes is None:
            return True
        held = sum(one.held for one in songs)
        return held + max(one.passing for one in songs) <= self._most_bytes

    def took(self, kind: Kind, seconds: float) -> None:
        """Note how long a piece of work took."""
        self._spent_s[kind] += seconds
