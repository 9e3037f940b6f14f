"""What goes in and out of the API: names, units and limits, from which its document is made."""

from __future__ import annotations

import math
import re
import secrets
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from khala.errors import RequestError
from khala.serve.ledger import Row, shown_title
from khala.serve.making import UPLOAD
from khala.serve.problems import Problem
from khala.song import SongRequest
from khala.song import request as limits

__all__ = [
    "Created",
    "Heard",
    "LyricsCheck",
    "LyricsChecked",
    "ModelInfo",
    "NewSong",
    "NewVariants",
    "Notice",
    "Owner",
    "Problem",
    "Progress",
    "Queue",
    "Refine",
    "Rename",
    "Section",
    "SongId",
    "SongInfo",
    "SongPage",
    "SongSettings",
    "State",
    "Status",
    "Tag",
    "Title",
    "seconds_of",
    "song_info",
]  # fmt: skip

State = Literal["queued", "working", "paused", "done", "cancelled", "failed"]
SongId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
Title = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]

WORDS_PER_S = 1.6
"""Sung at ease; for songs whose length is left open."""

OPEN_INSTRUMENTAL_S = 30.0

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['’-]\w+)*")


class _Strict(BaseModel):
    """Numbers that are finite, text that is text, and no field that nobody knows."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class SongSettings(_Strict):
    """What a song shall be."""

    prompt: str = Field("", max_length=limits.MAX_PROMPT_CHARS, description="Style tags")
    lyrics: str = Field(
        "", max_length=limits.MAX_LYRICS_CHARS,
        description="Words with section tags; empty exactly for an instrumental",
    )  # fmt: skip
    duration: float | None = Field(
        None, ge=limits.MIN_DURATION_S, le=limits.MAX_DURATION_S,
        description="Seconds; null: from the number of words",
    )  # fmt: skip
    instrumental: bool = Field(False, description="No voice")
    language: str = Field("en", max_length=35, description="Of the lyrics, BCP 47")
    seed: int | None = Field(
        None, ge=0, le=2**53 - 1, description="The same gives the same song; null: a new one"
    )
    levels: int | None = Field(
        None,
        ge=limits.MIN_LEVELS,
        le=limits.MAX_LEVELS,
        description="2: a sketch; null: all of the model's",
    )
    temperature: float = Field(1.0, ge=limits.MIN_TEMPERATURE, le=limits.MAX_TEMPERATURE)
    top_k: int = Field(80, ge=1, le=limits.MAX_TOP_K)
    guidance_scale: float | None = Field(
        None, ge=limits.MIN_GUIDANCE_SCALE, le=limits.MAX_GUIDANCE_SCALE,
        description="How strongly words and style are followed; null: as the model was measured",
    )  # fmt: skip
    superres_top_k: int | None = Field(None, ge=1, le=limits.MAX_TOP_K)

    def to_request(self, seed: int, all_levels: int) -> SongRequest:
        """Return what a worker is asked for.

        Args:
            seed: of this variant.
            all_levels: of the model.

        Raises:
            RequestError: fields that do not fit each other.
        """
        values = self.model_dump(exclude={"duration", "seed", "n", "title", "priority"})
        values["levels"] = self.levels or all_levels
        duration = self.duration or seconds_of(self.lyrics, instrumental=self.instrumental)
        return SongRequest(**values, duration_s=duration, seed=seed)


class NewSong(SongSettings):
    """A song that is asked for."""

    title: Title = Field("", description="Empty: the first line is shown")
    n: int = Field(1, ge=1, le=16, description="Variants: seed, seed + 1, ...")
    priority: int = Field(5, ge=1, le=9, description="1 is made first")

    def to_requests(self, all_levels: int) -> list[SongRequest]:
        """Return a request for each variant."""
        seed = secrets.randbelow(2**31) if self.seed is None else self.seed
        if seed + self.n - 1 > 2**53 - 1:
            raise RequestError(f"seed is {seed}: with {self.n} variants it must be smaller")
        return [self.to_request(seed + number, all_levels) for number in range(self.n)]


class NewVariants(_Strict):
    """More songs of the same request."""

    n: int = Field(1, ge=1, le=16)
    seed: int | None = Field(None, ge=0, le=2**53 - 1, description="Of the first; null: a new one")
    levels: int | None = Field(None, ge=limits.MIN_LEVELS, le=limits.MAX_LEVELS)


class Refine(_Strict):
    """A song that shall have more levels."""

    levels: int | None = Field(
        None, ge=limits.MIN_LEVELS, le=limits.MAX_LEVELS, description="null: all of the model's"
    )


class Rename(_Strict):
    """What can be changed of a song; fields left out stay as they are."""

    title: Title | None = None
    kept: bool | None = Field(None, description="Marked as one to keep")


class Progress(BaseModel):
    """How far the stage is."""

    done: int = Field(description="Frames of a sketch, levels of the detail")
    total: int
    eta_s: float | None = Field(description="Seconds left, if that is known")


class Queue(BaseModel):
    """Where a waiting song stands."""

    position: int = Field(description="1 is next")
    eta_s: float | None = Field(description="Seconds until it is begun, estimated")


class Status(BaseModel):
    """Why a song failed."""

    code: str
    detail: str
    stage: str


class Notice(BaseModel):
    """Something that was decided and should be known."""

    code: str
    message: str


class Heard(BaseModel):
    """Sound that is there."""

    levels: int
    url: str


class SongInfo(BaseModel):
    """A song, as far as it is."""

    id: str
    title: str
    state: State
    stage: str = Field(description='"encode" (a recording), "sketch", "detail", "sound", or empty')
    wish: str = Field(description='"cancel" or "pause" while a worker is about to stop, or empty')
    is_recording: bool = Field(description="Sent as a recording, not generated")
    progress: Progress
    queue: Queue | None
    levels: int = Field(description="Finished")
    levels_wanted: int
    duration: float | None = Field(description="Seconds of what is there")
    request: SongSettings
    model: str
    family: str = Field(description="Variants of one request have the same")
    priority: int
    kept: bool
    created_at: datetime
    finished_at: datetime | None
    spent_s: float = Field(description="Seconds of making")
    error: Status | None
    notices: list[Notice]
    audio: list[Heard] = Field(description="What can be heard, coarsest first")
    pieces: int = Field(description="Of the sketch that can be heard while it is written")
    has_file: bool = Field(description="Whether there is a .khala file")
    has_plot: bool


class Created(BaseModel):
    """Songs that were taken."""

    songs: list[SongInfo]


class SongPage(BaseModel):
    """Some songs, newest first."""

    songs: list[SongInfo]
    next: str | None = Field(description="Give it as cursor for those after")


class LyricsCheck(_Strict):
    """Lyrics to look at."""

    lyrics: str = Field(max_length=limits.MAX_LYRICS_CHARS)
    duration: float | None = Field(None, ge=limits.MIN_DURATION_S, le=limits.MAX_DURATION_S)


class Section(BaseModel):
    """A section as it is understood."""

    tag: str
    name: str
    lines: int
    words: int


class LyricsChecked(BaseModel):
    """Lyrics as the model reads them."""

    normalised: str
    sections: list[Section]
    words: int
    duration: float = Field(description="Seconds that would fit the words")
    warnings: list[str]


class ModelInfo(BaseModel):
    """A model that makes songs here."""

    name: str
    levels: int
    longest_s: float
    sample_rate_hz: int
    device: str
    dtype: str
    workers: int
    digests: dict[str, str]


class Tag(BaseModel):
    """A style tag."""

    tag: str
    group: str


class Owner(BaseModel):
    """Whose token this is, and what is possible here."""

    owner: str
    version: str
    limits: dict[str, float]
    states: dict[str, int]


def num_words_of(text: str) -> int:
    """Return how many words a line has; where no spaces are written, every character is one."""
    return len(_WORD.findall(text))


def seconds_of(lyrics: str, *, instrumental: bool) -> float:
    """Return a length for words whose length was left open, in whole seconds."""
    num_words = sum(num_words_of(line) for line in lyrics.splitlines() if not line.startswith("["))
    if instrumental or not num_words:
        return OPEN_INSTRUMENTAL_S
    seconds = math.ceil(num_words / WORDS_PER_S) + 4
    return float(min(max(seconds, 15), limits.MAX_DURATION_S))


def song_info(row: Row, files: dict[str, Row], queue: Queue | None) -> SongInfo:
    """Return what the API tells of a song."""
    song = row["id"]
    heard = sorted(
        one["levels"] for name, one in files.items()
        if name.startswith("audio-") and name.endswith(".flac")
    )  # fmt: skip
    request = {**row["request"]}
    request["duration"] = request.pop("duration_s")
    return SongInfo(
        id=song, title=shown_title(row), state=row["state"], stage=row["stage"],
        wish=row["wish"], is_recording=UPLOAD in files,
        progress=Progress(done=row["done"], total=row["total"], eta_s=row["eta_s"]),
        queue=queue, levels=row["levels"], levels_wanted=row["levels_wanted"],
        duration=row["duration_s"], request=SongSettings.model_construct(**request),
        model=row["model"], family=row["family"], priority=row["priority"], kept=row["kept"],
        created_at=at(row["created_at"]),
        finished_at=None if row["finished_at"] is None else at(row["finished_at"]),
        spent_s=round(row["spent_s"], 3), error=row["error"], notices=row["notices"],
        audio=[Heard(levels=k, url=f"/v1/songs/{song}/audio?levels={k}") for k in heard],
        pieces=sum(name.startswith("piece-") for name in files),
        has_file="song.khala" in files, has_plot="plot.png" in files,
    )  # fmt: skip


def at(seconds: float) -> datetime:
    """Return a time of the clock."""
    return datetime.fromtimestamp(seconds, UTC)
