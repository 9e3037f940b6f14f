"""Levels 2 and up: which to make, making them, and keeping what a stopped run finished."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from khala.adapter import digest_name, shown_adapters
from khala.errors import Cancelled, CheckpointError, RequestError
from khala.infer.events import Notice, OnEvent, ShouldStop, StageClock
from khala.infer.plan import LoadPlan
from khala.infer.published import Published
from khala.song import Song
from khala.song.request import MIN_LEVELS
from khala.superres import SuperResolution
from khala.superres.complete import Sketch, complete_songs

__all__ = ["LevelPlan", "plan_levels", "refine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelPlan:
    """Which levels of a song are kept, and which are made with what seed."""

    keep: int
    levels: int
    seed: int


def plan_levels(
    song: Song, *, levels: int, seed: int | None, keep_levels: int | None, most: int
) -> LevelPlan:
    """Decide what refining a song means, or say why it means nothing.

    Raises:
        RequestError: more levels than the model has, fewer than the song keeps, or a new seed for
            a song whose levels all exist and are all kept.
    """
    keep = song.num_levels if keep_levels is None else keep_levels
    if not MIN_LEVELS <= levels <= most:
        raise RequestError(f"levels is {levels}: this model has {MIN_LEVELS} to {most}")
    if not MIN_LEVELS <= keep <= song.num_levels:
        raise RequestError(
            f"levels to keep is {keep}: this song has {MIN_LEVELS} to {song.num_levels}"
        )
    if levels < keep:
        raise RequestError(
            f"levels is {levels}, but {keep} are there already: "
            f"give {keep} to {most}, or keep fewer"
        )
    if keep == levels and seed not in (None, song.seed):
        raise RequestError(
            f"the song has all {levels} levels, so another seed makes nothing: keep fewer "
            f"({MIN_LEVELS} to {levels - 1})"
        )
    return LevelPlan(keep=keep, levels=levels, seed=song.seed if seed is None else seed)


def refine(
    song: Song,
    *,
    superres: SuperResolution,
    prompt: Sequence[int],
    digests: Mapping[str, str],
    load: LoadPlan,
    plan: LevelPlan,
    published: Published | None = None,
    on_event: OnEvent | None = None,
    should_stop: ShouldStop | None = None,
) -> Song:
    """Carry out a plan: a new song with ``plan.levels`` levels, drawn as ``published`` if given.

    Raises:
        CheckpointError: the song's codes are of another codec than the model's.
        Cancelled: between two levels; ``finished`` has those that are whole.
    """
    if song.digests.get("codec", digests["codec"]) != digests["codec"]:
        raise CheckpointError("this song's codes are of another codec than this model's")
    codes_QT = torch.from_numpy(song.codes_QT[: plan.keep].astype(np.int64))
    if plan.keep < plan.levels:
        _warn_if_other_adapter(song, digests, on_event)
        clock = StageClock(stage="superres", total=plan.levels - plan.keep, on_event=on_event)
        sketch = Sketch(prompt_S=torch.tensor(list(prompt)), codes_QT=codes_QT, seed=plan.seed)
        top_k = song.request.superres_top_k
        if published is not None and top_k is None:
            top_k = published.superres_top_k
        (codes_QT,) = complete_songs(
            superres,
            [sketch],
            top_k=top_k,
            temperature=None if published is None else published.superres_temperature,
            padded_positions=None if published is None else published.padded_positions,
            levels=plan.levels,
            autocast=load.products,
            on_level=lambda done: clock.report(done - plan.keep),
            should_stop=should_stop,
        )
    num_levels = codes_QT.shape[0]
    refined = dataclasses.replace(
        song,
        codes_QT=codes_QT.cpu().numpy().astype(np.int16),
        seed=plan.seed,
        digests=_digests(song, digests, is_made=num_levels > plan.keep),
        dtype=load.dtype if num_levels > plan.keep else song.dtype,
    )
    if num_levels < plan.levels:
        raise Cancelled("stopped between two levels", finished=refined)
    return refined


def _digests(song: Song, digests: Mapping[str, str], *, is_made: bool) -> dict[str, str]:
    """Return who made a song, after this model has perhaps made its finest levels."""
    if not is_made:
        return dict(song.digests)
    ours = ("superres", digest_name("superres"))
    kept = {name: digest for name, digest in song.digests.items() if name not in ours}
    return kept | {name: digests[name] for name in ours if name in digests}


def _warn_if_other_adapter(
    song: Song, digests: Mapping[str, str], on_event: OnEvent | None
) -> None:
    """Say so when a song's details were, or were to be, made with an adapter that is not here."""
    name = digest_name("superres")
    theirs = song.digests.get(name)
    if theirs is None or theirs == digests.get(name) or on_event is None:
        return
    message = (
        f"this song was made with the superres adapter {shown_adapters(theirs)}: its new levels "
        "are made without it"
    )
    on_event(Notice(code="other_adapter", message=message))
