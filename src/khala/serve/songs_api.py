"""The API's songs: asking for them, watching them, hearing them, and what can be done with them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from khala.errors import RequestError
from khala.serve import uploading
from khala.serve.ledger import Row, shown_title
from khala.serve.orders import Order
from khala.serve.problems import PROBLEMS
from khala.serve.schemas import (
    Created,
    NewSong,
    NewVariants,
    Queue,
    Refine,
    Rename,
    SongId,
    SongInfo,
    SongPage,
    State,
    Title,
    song_info,
)
from khala.serve.service import Service, owner_of, service_of
from khala.serve.sounds import MEDIA, attachment, part

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["songs"], responses=PROBLEMS)

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$",
        description="The same key and body again are the same songs",
    ),
]  # fmt: skip
Format = Literal["flac", "wav", "mp3", "opus"]


@router.post("/songs", status_code=202, operation_id="createSongs")
async def create(request: Request, new: NewSong, key: Key = None) -> Created:
    """Ask for a song, or for variants of one. The answer comes when they are safely on the disk."""
    service = service_of(request)
    # a thread costs more than the work, unless the database must be asked what is known otherwise
    if not service.is_informed:
        await run_in_threadpool(service.inform)
    order = ordered(service, owner_of(request), new, key)
    rows = await asyncio.wrap_future(service.jobs.submitting(order))
    if all(row["state"] == "queued" and not row["levels"] for row in rows) and service.is_informed:
        return created(service, rows)
    return await run_in_threadpool(created, service, rows)


def ordered(service: Service, owner: str, new: NewSong, key: str | None) -> Order:
    """Return what is ordered, if it can be made."""
    most = service.settings.limits.variants
    if new.n > most:
        raise RequestError(f"n is {new.n}: 1 to {most} is allowed")
    service.check_disk()
    requests = new.to_requests(service.all_levels)
    service.check(requests[0])
    asked = None
    if key is not None and new.seed is None:
        # without a seed each try would draw another: what was asked decides what is the same
        asked = json.dumps(new.model_dump(), sort_keys=True)
    return Order(
        owner=owner, requests=requests, titles=[new.title.strip()] * new.n, priority=new.priority,
        key=key, asked=asked,
    )  # fmt: skip


@router.get("/songs", operation_id="listSongs")
def listed(
    request: Request,
    q: Annotated[str, Query(max_length=200, description="Words of title, prompt or lyrics")] = "",
    state: Annotated[list[State] | None, Query(description="Any of these")] = None,
    kept: bool | None = None,
    family: SongId | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> SongPage:
    """List songs, newest first."""
    service, owner = service_of(request), owner_of(request)
    rows = service.jobs.ledger.songs(
        owner, words=q, states=state or (), kept=kept, family=family,
        before=None if cursor is None else read_cursor(cursor), limit=limit + 1,
    )  # fmt: skip
    more = rows[limit - 1] if len(rows) > limit else None
    songs = [info(service, row) for row in rows[:limit]]
    return SongPage(songs=songs, next=None if more is None else cursor_of(more))


@router.post(
    "/songs/import", status_code=202, operation_id="importSong",
    openapi_extra={"requestBody": {"required": True, "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
)  # fmt: skip
async def imported(request: Request, title: Annotated[Title, Query()] = "") -> Created:
    """Take a .khala file, or a recording whose codes are then worked out; at most 32 MiB."""
    service, owner = service_of(request), owner_of(request)
    upload = await uploading.receive(request, service)
    rows = await run_in_threadpool(uploading.keep, service, owner, upload, title.strip())
    return await run_in_threadpool(created, service, rows)


@router.get("/songs/{song}", operation_id="getSong")
def got(request: Request, song: SongId) -> SongInfo:
    """Return a song as far as it is."""
    service = service_of(request)
    return info(service, service.row(song, owner_of(request)))


@router.patch("/songs/{song}", operation_id="changeSong")
def changed(request: Request, song: SongId, change: Rename) -> SongInfo:
    """Rename a song, or mark it as one to keep."""
    service, owner = service_of(request), owner_of(request)
    return info(service, service.rename(service.row(song, owner), change))


@router.delete("/songs/{song}", status_code=204, operation_id="deleteSong")
def deleted(request: Request, song: SongId) -> None:
    """Delete a song with everything that was made of it."""
    service, owner = service_of(request), owner_of(request)
    service.jobs.delete(service.row(song, owner))


@router.post("/songs/{song}/cancel", operation_id="cancelSong")
def cancelled(request: Request, song: SongId) -> SongInfo:
    """Stop a song for good; what is finished can be heard."""
    service, owner = service_of(request), owner_of(request)
    return info(service, service.jobs.stop(service.row(song, owner), "cancel"))


@router.post("/songs/{song}/pause", operation_id="pauseSong")
def paused(request: Request, song: SongId) -> SongInfo:
    """Stop a song until it is resumed."""
    service, owner = service_of(request), owner_of(request)
    return info(service, service.jobs.stop(service.row(song, owner), "pause"))


@router.post("/songs/{song}/resume", status_code=202, operation_id="resumeSong")
def resumed(request: Request, song: SongId) -> SongInfo:
    """Go on with a song that was paused or cancelled, or try one again that failed."""
    service, owner = service_of(request), owner_of(request)
    return info(service, service.go_on(service.row(song, owner)))


@router.post("/songs/{song}/refine", status_code=202, operation_id="refineSong")
def refined(request: Request, song: SongId, refine: Refine) -> SongInfo:
    """Give a song more levels; what it has stays."""
    service, owner = service_of(request), owner_of(request)
    return info(
        service, service.go_on(service.row(song, owner), levels=refine.levels or service.all_levels)
    )


@router.post("/songs/{song}/variants", status_code=202, operation_id="createVariants")
def varied(request: Request, song: SongId, new: NewVariants, key: Key = None) -> Created:
    """Ask for more songs of the same request, with other seeds."""
    service, owner = service_of(request), owner_of(request)
    row = service.row(song, owner)
    values = dict(row["request"])
    values["duration"] = values.pop("duration_s")
    values |= {"levels": new.levels or values["levels"], "n": new.n, "seed": new.seed}
    order = NewSong(**values)
    if new.n > service.settings.limits.variants:
        raise RequestError(f"n is {new.n}: 1 to {service.settings.limits.variants} is allowed")
    asked = json.dumps([song, new.model_dump()], sort_keys=True) if key is not None else None
    return created(service, service.submit(Order(
        owner=owner, requests=order.to_requests(service.all_levels), titles=[row["title"]] * new.n,
        priority=row["priority"], family=row["family"], key=key, asked=asked,
    )))  # fmt: skip


@router.get("/songs/{song}/audio", operation_id="getAudio", response_class=Response,
            responses={200: {"content": {kind: {} for kind in sorted(set(MEDIA.values()))
                                         if kind.startswith("audio/")}}, 206: {}})  # fmt: skip
def audio(
    request: Request,
    song: SongId,
    format: Format = "flac",
    levels: Annotated[int | None, Query(ge=1, le=64, description="The most, by default")] = None,
    download: bool = False,
) -> Response:
    """Return a song's sound, or a part of the file (Range)."""
    service = service_of(request)
    row = service.row(song, owner_of(request))
    data, digest = service.sounds.audio(row, ending=f".{format}", levels=levels)
    headers = {"Content-Type": MEDIA[f".{format}"]}
    if download:
        headers["Content-Disposition"] = attachment(shown_title(row), song, f".{format}")
    return part(request, data, digest, headers)


@router.get("/songs/{song}/pieces/{number}", operation_id="getPiece", response_class=Response,
            responses={200: {"content": {"audio/wav": {}}}})  # fmt: skip
def piece(request: Request, song: SongId, number: int) -> Response:
    """Return a piece of the sketch, while it is written."""
    return stored(request, song, f"piece-{number:03d}.wav" if 0 <= number < 1_000 else "none")


@router.get("/songs/{song}/peaks", operation_id="getPeaks", response_class=Response,
            responses={200: {"content": {"application/json": {
                "schema": {"type": "array", "items": {"type": "number"}}}}}})  # fmt: skip
def peaks(
    request: Request, song: SongId, levels: Annotated[int, Query(ge=1, le=64)] = 64
) -> Response:
    """Return the outline of a sound: its largest magnitudes in up to 1,000 columns."""
    return stored(request, song, f"peaks-{levels:02d}.json")


@router.get("/songs/{song}/file", operation_id="getFile", response_class=Response,
            responses={200: {"content": {"application/vnd.khala": {}}}})  # fmt: skip
def file(request: Request, song: SongId) -> Response:
    """Return the .khala file: everything of a song, to be shared, refined or made again."""
    service = service_of(request)
    row = service.row(song, owner_of(request))
    data, digest = service.sounds.file(row, "song.khala")
    headers = {
        "Content-Type": MEDIA[".khala"],
        "Content-Disposition": attachment(shown_title(row), song, ".khala"),
    }
    return part(request, data, digest, headers)


@router.get("/songs/{song}/credentials", operation_id="getCredentials", response_class=Response,
            responses={200: {"content": {"application/c2pa": {}}}})  # fmt: skip
def credentials(
    request: Request, song: SongId, levels: Annotated[int, Query(ge=1, le=64)] = 64
) -> Response:
    """Return the Content Credentials of the Opus file, which cannot hold them itself."""
    return stored(request, song, f"audio-{levels:02d}.opus.c2pa")


@router.get("/songs/{song}/plot", operation_id="getPlot", response_class=Response,
            responses={200: {"content": {"image/png": {}}}})  # fmt: skip
def plot(request: Request, song: SongId) -> Response:
    """Return a picture: waveform, spectrogram, sections."""
    return stored(request, song, "plot.png")


@router.get("/songs/{song}/events", operation_id="watchSong", response_class=StreamingResponse,
            responses={200: {"content": {"text/event-stream": {}}}})  # fmt: skip
async def watched(request: Request, song: SongId) -> StreamingResponse:
    """Watch one song: server-sent events, which go on after Last-Event-ID."""
    service, owner = service_of(request), owner_of(request)
    service.row(song, owner)
    return await stream(request, service, owner, song)


@router.get("/events", operation_id="watchSongs", response_class=StreamingResponse,
            responses={200: {"content": {"text/event-stream": {}}}})  # fmt: skip
async def watched_all(request: Request) -> StreamingResponse:
    """Watch all songs of an owner: server-sent events, which go on after Last-Event-ID."""
    return await stream(request, service_of(request), owner_of(request), None)


async def stream(
    request: Request, service: Service, owner: str, song: str | None
) -> StreamingResponse:
    """Answer with events."""
    last = request.headers.get("last-event-id", "")
    after = int(last) if last.isdecimal() and len(last) < 16 else None
    events = await service.hub.events(owner, song=song, after=after)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def stored(request: Request, song: str, name: str) -> Response:
    """Answer with a stored file."""
    service = service_of(request)
    data, digest = service.sounds.file(service.row(song, owner_of(request)), name)
    ending = name[name.rfind(".") :]
    return part(request, data, digest, {"Content-Type": MEDIA[ending]})


def info(service: Service, row: Row) -> SongInfo:
    """Return what is told of a song."""
    queue, files = None, {}
    if row["state"] == "queued":
        position, eta_s = service.place(row)
        queue = Queue(position=position, eta_s=eta_s)
    asked = row["request"]
    is_new = row["state"] == "queued" and not row["levels"] and row["jobs"] == 1
    if not is_new or not (asked["prompt"] or asked["lyrics"]):  # a new song of words has no files
        files = service.jobs.ledger.files(row["id"])
    return song_info(row, files, queue)


def created(service: Service, rows: list[Row]) -> Created:
    """Return songs that were taken."""
    return Created(songs=[info(service, row) for row in rows])


def cursor_of(row: Row) -> str:
    """Return where the next page begins."""
    return base64.urlsafe_b64encode(f"{row['created_at']!r} {row['id']}".encode()).decode()


def read_cursor(cursor: str) -> tuple[float, str]:
    """Read what `cursor_of` gave.

    Raises:
        RequestError: it is something else.
    """
    try:
        at, song = base64.urlsafe_b64decode(cursor.encode()).decode().split(" ")
        return float(at), song
    except (ValueError, binascii.Error) as error:
        raise RequestError("cursor is not one that a list gave") from error
