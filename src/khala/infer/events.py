"""What a caller hears while a song is made: how far it is, and what it should know."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Event", "Notice", "OnEvent", "Preview", "Progress", "ShouldStop", "StageClock"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One stage moved. Every stage ends with ``done == total``, unless it was cancelled."""

    stage: str
    """"backbone" counts frames, "superres" levels, "codec" frames of sound, "encode" frames;
    while weights are fetched, "download (MB)" and "codec (MB)" and so on count megabytes."""

    done: int
    total: int
    """For the backbone the most it may write; the song may end earlier."""

    elapsed_s: float
    """Since this stage began."""

    eta_s: float | None
    """Until this stage ends at the speed so far; None before there is a speed."""

    song: int = 0
    """Which of several songs, counted from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """Something was decided that the caller would want to know."""

    code: str
    """Stable name: "scaled_down", "dense_lyrics", "tight_memory", "other_adapter" or "fetching"; as
    published also "clipped", "published_setting", "published_cut", "published_failure" or
    "published_limit"."""

    message: str
    """One line for people."""

    value: float | None = None
    """The number in it, for machines: the gain, the words per second, the bytes, the tokens cut."""

    song: int = 0
    """Which of several songs, counted from 0."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Preview:
    """Sound of a song that is not finished; only who asks for previews hears it."""

    levels: int
    """How many levels it was decoded from."""

    start_s: float
    """Where in the song it begins."""

    wave_CN: npt.NDArray[np.float32]
    """The sound, [channels, samples]. It may pass full scale, as the finished song never does."""

    sample_rate_hz: int

    is_whole: bool
    """The whole song from few levels; otherwise the next piece of the sketch."""

    song: int = 0
    """Which of several songs, counted from 0."""


Event: TypeAlias = Progress | Notice | Preview
OnEvent: TypeAlias = Callable[[Event], None]
ShouldStop: TypeAlias = Callable[[], bool]


@dataclass(kw_only=True, slots=True)
class StageClock:
    """Turns counts of one stage into :class:`Progress` with times."""

    stage: str
    total: int
    on_event: OnEvent | None
    started_s: float = field(default_factory=time.monotonic)
    done: int = 0

    def __post_init__(self) -> None:
        self.report(0)

    def report(self, done: int) -> None:
        """Say that ``done`` of ``total`` are finished."""
        self.done = done
        if self.on_event is None:
            return
        elapsed_s = time.monotonic() - self.started_s
        eta_s = elapsed_s / done * (self.total - done) if done else None
        self.on_event(
            Progress(
                stage=self.stage, done=done, total=self.total, elapsed_s=elapsed_s, eta_s=eta_s
            )
        )

    def finish(self) -> None:
        """Say that the stage is over, also if it needed less than announced."""
        if self.done != self.total:
            self.report(self.total)
