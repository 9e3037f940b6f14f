"""The part of ACE-Step's REST interface that front ends for it use, so that they work here.

Its habits are kept where they are seen: integers as states, results as JSON within JSON, a path to
fetch the sound with. What it takes and we do not is refused by name, except what only tunes its
own sampler.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from khala.errors import RequestError
from khala.serve.ledger import Row
from khala.serve.orders import Order
from khala.serve.problems import PROBLEMS, Missing
from khala.serve.schemas import NewSong
from khala.serve.service import Service, owner_of, service_of
from khala.serve.sounds import MEDIA, part
from khala.song.request import MAX_LYRICS_CHARS, MAX_PROMPT_CHARS

__all__ = ["router"]

router = APIRouter(tags=["ace-step"], responses=PROBLEMS)

RUNNING, DONE, FAILED = 0, 1, 2
IDS = Annotated[list[str], Field(max_length=100)]


class Task(BaseModel):
    """A task as ACE-Step's front ends ask for it; fields of its sampler are read and not used."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)

    prompt: str = Field(
        "", validation_alias=AliasChoices("prompt", "caption"), max_length=MAX_PROMPT_CHARS
    )
    lyrics: str = Field("", max_length=MAX_LYRICS_CHARS)
    duration: float | None = Field(
        None, validation_alias=AliasChoices("audio_duration", "duration", "audioDuration")
    )
    instrumental: bool = False
    vocal_language: str = Field(
        "en", validation_alias=AliasChoices("vocal_language", "vocalLanguage"), max_length=35
    )
    seed: int | str = -1
    use_random_seed: bool = Field(
        True, validation_alias=AliasChoices("use_random_seed", "useRandomSeed")
    )
    batch_size: int = Field(
        2, ge=1, le=16, validation_alias=AliasChoices("batch_size", "batchSize")
    )
    audio_format: Literal["mp3", "flac", "wav", "opus"] = Field(
        "mp3", validation_alias=AliasChoices("audio_format", "audioFormat")
    )
    task_type: str = Field(
        "text2music", validation_alias=AliasChoices("task_type", "taskType"), max_length=40
    )


class Ids(BaseModel):
    """Tasks to look at."""

    task_id_list: IDS


class Wrapped(BaseModel):
    """An answer as ACE-Step wraps it."""

    data: Any
    code: int = 200
    error: str | None = None
    timestamp: int
    extra: None = None


@router.post("/release_task", operation_id="aceReleaseTask")
def release_task(request: Request, task: Task) -> Wrapped:
    """Ask for songs; the task's id is that of its variants together."""
    service, owner = service_of(request), owner_of(request)
    if task.task_type != "text2music":
        raise RequestError(f"task_type {task.task_type!r} is not possible here: text2music is")
    most = min(task.batch_size, service.settings.limits.variants)
    duration = task.duration if task.duration is not None and task.duration > 0 else None
    if duration is not None and not 1.0 <= duration <= 600.0:
        raise RequestError(f"audio_duration is {duration:g}: 1 to 600 seconds are possible")
    seed = None if task.use_random_seed else seed_of(task.seed)
    is_instrumental = (
        task.instrumental
        or not task.lyrics.strip()
        or (task.lyrics.strip().lower() in ("[instrumental]", "[inst]"))
    )
    song = NewSong(
        prompt=task.prompt, lyrics="" if is_instrumental else task.lyrics, duration=duration,
        instrumental=is_instrumental, language=task.vocal_language, seed=seed, n=most,
    )  # fmt: skip
    requests = song.to_requests(service.all_levels)
    service.check(requests[0])
    rows = service.submit(
        Order(
            owner=owner,
            requests=requests,
            titles=[task.prompt[:80]] * most,
            format=task.audio_format,
        )
    )
    row = rows[0]
    position, _ = service.place(row)
    return wrapped({"task_id": row["id"], "status": "queued", "queue_position": position})


@router.post("/query_result", operation_id="aceQueryResult")
def query_result(request: Request, ids: Ids) -> Wrapped:
    """Say how far tasks are; what is unknown counts as failed, not as running for ever."""
    service, owner = service_of(request), owner_of(request)
    return wrapped([result(service, owner, one) for one in ids.task_id_list])


@router.get("/v1/audio", operation_id="aceAudio", response_class=Response,
            responses={200: {"content": {"audio/mpeg": {}}}})  # fmt: skip
def audio(request: Request, path: Annotated[str, Query(max_length=60)]) -> Response:
    """Return a sound that a result named; the path is a name, and no file is opened by it."""
    service, owner = service_of(request), owner_of(request)
    song, _, format = path.partition(".")
    if f".{format}" not in MEDIA or not MEDIA[f".{format}"].startswith("audio/"):
        raise Missing("there is no such sound")
    data, digest = service.sounds.audio(service.row(song, owner), ending=f".{format}", levels=None)
    return part(request, data, digest, {"Content-Type": MEDIA[f".{format}"]})


def result(service: Service, owner: str, task: str) -> dict[str, Any]:
    """Return one task's state as ACE-Step tells it."""
    rows = service.jobs.ledger.songs(owner, family=task, limit=16)
    states = {row["state"] for row in rows}
    if not rows or "failed" in states or "cancelled" in states:
        status = FAILED
    else:
        status = DONE if states == {"done"} else RUNNING
    songs = [told(row, status) for row in reversed(rows)]
    return {"task_id": task, "status": status, "result": json.dumps(songs)}


def told(row: Row, status: int) -> dict[str, Any]:
    """Return a song as ACE-Step tells of it."""
    request = row["request"]
    return {
        "file": f"/v1/audio?path={row['id']}.{row['format']}" if row["state"] == "done" else "",
        "wave": "", "status": status, "create_time": int(row["created_at"]), "env": "production",
        "prompt": request["prompt"], "lyrics": request["lyrics"],
        "metas": {"duration": row["duration_s"] or request["duration_s"], "bpm": None,
                  "genres": request["prompt"], "keyscale": "", "timesignature": ""},
        "generation_info": f"{row['levels']} of {row['levels_wanted']} levels",
        "seed_value": str(request["seed"]), "lm_model": row["model"], "dit_model": row["model"],
    }  # fmt: skip


def seed_of(seed: int | str) -> int | None:
    """Return the first of ACE-Step's seeds, None for a random one.

    Raises:
        RequestError: it is no number.
    """
    first = str(seed).split(",")[0].strip()
    try:
        number = int(first)
    except ValueError as error:
        raise RequestError("seed is not a whole number") from error
    if number >= 2**53:
        raise RequestError("seed is too large: below 2**53 is allowed")
    return None if number < 0 else number


def wrapped(data: Any) -> Wrapped:
    """Return an answer as ACE-Step wraps it."""
    return Wrapped(data=data, timestamp=time.time_ns() // 1_000_000)
