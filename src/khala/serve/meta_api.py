"""The rest of the API: health, models, tags, lyrics, figures."""

from __future__ import annotations

import shutil
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request, Response
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse

from khala import __version__
from khala.serve.catalogue import TAGS
from khala.serve.problems import PROBLEMS
from khala.serve.schemas import (
    LyricsCheck,
    LyricsChecked,
    ModelInfo,
    Owner,
    Section,
    Tag,
    num_words_of,
    seconds_of,
)
from khala.serve.service import owner_of, service_of
from khala.tokens.lyrics import normalise_lyrics, sections

__all__ = ["open_router", "router"]

router = APIRouter(responses=PROBLEMS)
open_router = APIRouter()

WORDS_PER_S = 3.5
"""Faster than most people sing."""


@open_router.get("/health", operation_id="aceHealth", tags=["ace-step"])
@open_router.get("/healthz", operation_id="health", tags=["service"])
def health(request: Request) -> Response:
    """Say whether songs can be taken and made. The only route without a token; it tells no more."""
    service = service_of(request)
    try:
        with service.jobs.engine.connect() as db:
            db.execute(sa.text("SELECT 1"))
        is_well = bool(service.models())
        status = "ok" if is_well else "no worker yet"
    except sa.exc.SQLAlchemyError:
        is_well, status = False, "no database"
    return JSONResponse({"status": status}, 200 if status != "no database" else 503)


@router.get("/v1/me", operation_id="me", tags=["service"])
def me(request: Request) -> Owner:
    """Say whose token this is, and what is possible."""
    service, owner = service_of(request), owner_of(request)
    limits = service.settings.limits
    return Owner(
        owner=owner, version=__version__, states=service.jobs.ledger.counts(owner),
        limits={"variants": limits.variants, "queue": limits.queue, "queue_each": limits.queue_each,
                "upload_bytes": limits.upload_bytes},
    )  # fmt: skip


@router.get("/v1/models", operation_id="listModels", tags=["service"])
def models(request: Request) -> list[ModelInfo]:
    """List the models that make songs here; none while the first worker is starting."""
    return [
        ModelInfo(
            name=one["model"], levels=one["levels"], longest_s=one["longest_s"],
            sample_rate_hz=one["sample_rate_hz"], device=one["device"], dtype=one["dtype"],
            workers=one["workers"], digests=one["digests"],
        )
        for one in service_of(request).models()
    ]  # fmt: skip


@router.get("/v1/tags", operation_id="listTags", tags=["writing"])
def tags(
    q: Annotated[str, Query(max_length=100)] = "",
) -> list[Tag]:
    """List style tags that the bundled model was trained with; others can be tried, too."""
    words = q.casefold().split()
    return [
        Tag(tag=tag, group=group)
        for group, group_tags in TAGS.items()
        for tag in group_tags
        if all(word in f"{tag} {group}" for word in words)
    ]


@router.post("/v1/lyrics/check", operation_id="checkLyrics", tags=["writing"])
def check_lyrics(check: LyricsCheck) -> LyricsChecked:
    """Show lyrics as the model will read them, and say what will not work."""
    found = sections(check.lyrics) if check.lyrics.strip() else []
    counted = [
        Section(tag=one.tag, name=one.name, lines=len(one.lines),
                words=sum(num_words_of(line) for line in one.lines))
        for one in found
    ]  # fmt: skip
    num_words = sum(one.words for one in counted)
    fitting_s = seconds_of(check.lyrics, instrumental=not num_words)
    warnings = []
    if check.duration is not None and num_words > WORDS_PER_S * check.duration:
        warnings.append(
            f"{num_words} words in {check.duration:g} seconds: some will not be sung; "
            f"{num_words / WORDS_PER_S:.0f} seconds would fit"
        )
    if counted and not counted[0].tag and len(counted) > 1:
        warnings.append("words before the first section tag belong to no section")
    warnings += [f"[{one.tag}] has no words" for one in counted
                 if not one.words and one.name in ("Verse", "Chorus", "Bridge")]  # fmt: skip
    return LyricsChecked(
        normalised=normalise_lyrics(check.lyrics), sections=counted, words=num_words,
        duration=fitting_s, warnings=warnings,
    )  # fmt: skip


@router.get("/metrics", operation_id="metrics", tags=["service"], response_class=Response,
            responses={200: {"content": {"text/plain": {}}}})  # fmt: skip
def metrics(request: Request) -> Response:
    """Return figures for Prometheus; no word of any song is in them."""
    service = service_of(request)
    registry = CollectorRegistry()
    songs = Gauge("khala_songs", "Songs by state", ["state"], registry=registry)
    for state in ("queued", "working", "paused", "done", "cancelled", "failed"):
        songs.labels(state).set(0)
    for state, num in service.jobs.ledger.counts().items():
        songs.labels(state).set(num)
    workers = Gauge("khala_workers", "Workers that are alive, by model", ["model"],
                    registry=registry)  # fmt: skip
    for one in service.models():
        workers.labels(one["model"]).set(one["workers"])
    speed = Gauge("khala_seconds_per_second", "Seconds of making for a second of song, lately",
                  registry=registry)  # fmt: skip
    speed.set(service.jobs.ledger.speed() or 0.0)
    streams = Gauge("khala_event_streams", "Open streams of events", registry=registry)
    streams.set(service.hub.num_listeners)
    if service.settings.objects is None:
        free = Gauge("khala_disk_free_bytes", "Free space for songs", registry=registry)
        free.set(shutil.disk_usage(service.settings.data).free)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
