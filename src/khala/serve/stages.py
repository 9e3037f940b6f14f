"""What a song still needs, in order: pure decisions, no torch, no database."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

__all__ = ["Stage", "stages_of"]

HEARD = (2, 8, 32)
"""Numbers of levels at which a song is heard before it is finished."""

LEVELS_AT_ONCE = 8
"""Levels of one stage: what a crash can cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One thing that is done, kept, and never done again."""

    kind: Literal["encode", "sketch", "detail", "sound"]
    levels: int
    """That the song has afterwards; for "sound" those that are heard."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` gave."""
        return cls(**values)

    @property
    def label(self) -> str:
        """A short name, such as "detail-16"."""
        return f"{self.kind}-{self.levels}"


def stages_of(
    *, levels: int, wanted: int, heard: set[int], is_recording: bool = False
) -> list[Stage]:
    """Return what is left to do.

    Args:
        levels: the song has; 0: there is no sketch.
        wanted: it shall have.
        heard: numbers of levels whose sound is there.
        is_recording: it is no song yet, but a recording whose codes are to be worked out.
    """
    stages = []
    if levels == 0 and is_recording:
        levels = wanted
        stages.append(Stage(kind="encode", levels=wanted))
    elif levels == 0:
        levels = 2
        stages.append(Stage(kind="sketch", levels=2))
    if wanted > levels and levels in HEARD and levels not in heard:
        stages.append(Stage(kind="sound", levels=levels))
    while levels < wanted:
        levels = min(levels - levels % LEVELS_AT_ONCE + LEVELS_AT_ONCE, wanted)
        stages.append(Stage(kind="detail", levels=levels))
        if levels in HEARD and levels < wanted and levels not in heard:
            stages.append(Stage(kind="sound", levels=levels))
    if levels not in heard:
        stages.append(Stage(kind="sound", levels=levels))
    return stages
