"""Several requests, and their songs as they are finished."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from khala.errors import Cancelled, KhalaError, RequestError, StageError
from khala.infer.engine import Engine
from khala.infer.events import OnEvent, ShouldStop
from khala.infer.preview import PreviewSettings
from khala.infer.warn import warn_if_dense, warn_if_tight
from khala.song import Song, SongRequest

if TYPE_CHECKING:
    from khala.infer.pipeline import Khala

__all__ = ["Made", "generate_each"]

Made: TypeAlias = "Song | KhalaError"
"""A song, or why there is none: `Cancelled` or `StageError`, with what was finished of it."""


def generate_each(
    model: Khala,
    requests: Sequence[SongRequest],
    *,
    compat: str = "none",
    on_event: OnEvent | None = None,
    should_stop: ShouldStop | None = None,
    previews: PreviewSettings | None = None,
) -> Iterator[tuple[int, Made]]:
    """Begin several songs, and give each with its place as soon as it is finished.

    They are made beside each other; as published (``compat``), one after another. Arguments and
    errors are those of `Khala.generate_many`.
    """
    hears = [_about(place, on_event) for place in range(len(requests))]
    for request, hear in zip(requests, hears, strict=True):
        model.check(request, compat=compat)
        if compat == "none":
            warn_if_dense(request, hear)
    if compat != "none":
        return _one_by_one(model, requests, hears, compat, should_stop)
    engine = Engine(model=model)
    for request, hear in zip(requests, hears, strict=True):
        engine.submit(request, on_event=hear, should_stop=should_stop, previews=previews)
    return ((done.number, done.outcome) for done in engine.finished())


def _one_by_one(
    model: Khala,
    requests: Sequence[SongRequest],
    hears: Sequence[OnEvent | None],
    compat: str,
    should_stop: ShouldStop | None,
) -> Iterator[tuple[int, Made]]:
    for place, (request, hear) in enumerate(zip(requests, hears, strict=True)):
        try:
            yield place, _as_published(model, request, compat, hear, should_stop)
        except (Cancelled, StageError) as error:
            yield place, error


def _as_published(
    model: Khala,
    request: SongRequest,
    compat: str,
    on_event: OnEvent | None,
    should_stop: ShouldStop | None,
) -> Song:
    """Make one song as the published program does."""
    if model.models.plan.has_int8_steps:
        raise RequestError("as published, nothing is read in int8: choose another dtype")
    warn_if_tight(model.models, request, on_event)
    codes_QT, ended = model.sketch(request, compat, on_event, should_stop)
    song = None
    if codes_QT.shape[1] >= model.frame_rate_hz or ended != "cancelled":
        song = model.song_of(request, codes_QT, ended, compat)
    if song is None or ended == "cancelled":
        raise Cancelled("stopped while the sketch was written", finished=song)
    return model.refine(song, levels=request.levels, on_event=on_event, should_stop=should_stop)


def _about(song: int, on_event: OnEvent | None) -> OnEvent | None:
    """Return what hears the events of one of several songs and says which."""
    if on_event is None or song == 0:
        return on_event
    return lambda event: on_event(dataclasses.replace(event, song=song))
