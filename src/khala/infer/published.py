"""Songs as the published program makes them, defects included, for comparison: docs/published.md.

Text is prepared by ``khala.tokens.published``, the sketch sampled by ``khala.backbone.free``,
the sound joined by ``khala.codec.crossfade``; here stand the program's numbers, and what becomes of
a request. Where it fails there is one clear error, and where it keeps silent there are notices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from khala.backbone import Backbone
from khala.backbone.free import fits_its_place, generate_free, paired_codes
from khala.codec.crossfade import CHUNK_FRAMES, OVERLAP_FRAMES
from khala.errors import RequestError
from khala.infer.events import Notice, OnEvent, ShouldStop, StageClock
from khala.song import COMPAT_MODES, SongRequest
from khala.song.request import shown
from khala.tokens import COARSE_LEVELS, TextTokenizer, TokenLayout
from khala.tokens.published import clamp_published, published_minutes, published_prompt

__all__ = ["Plan", "Published", "plan_song", "published_mode", "write_sketch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """The numbers of the published program that its songs depend on."""

    natural: bool = False
    """The prompt is a description, which super-resolution is not told; False: tags, which it is."""

    most_backbone_prompt: int = 4_096
    """Longer prompts are cut for the backbone: first ids and the last one stay."""

    most_superres_prompt: int = 2_048
    """The same for super-resolution."""

    most_tokens: int = 23_552
    """Ids the backbone may write, two a frame."""

    engine_positions: int = 25_600
    """Positions of its engine; a prompt that leaves no room for ``most_tokens`` makes it fail."""

    padded_positions: int = 8_192
    """Super-resolution pads shorter songs to this, and draws for the padding too."""

    superres_top_k: int = 10
    """Codes kept by super-resolution where a request does not say."""

    superres_temperature: float = 1.0

    most_top_k: int = 200
    """The backbone's is clamped to 1 and this."""

    temperatures: tuple[float, float] = (0.6, 1.4)
    """The backbone's is clamped to these."""

    chunk_frames: int = CHUNK_FRAMES
    overlap_frames: int = OVERLAP_FRAMES


def published_mode(compat: str) -> Published | None:
    """Return what a name of ``COMPAT_MODES`` means; None for "none".

    Raises:
        RequestError: another name; lists the known ones.
    """
    if compat not in COMPAT_MODES:
        raise RequestError(f"compat is {shown(compat)}: one of {', '.join(COMPAT_MODES)}")
    return None if compat == "none" else Published(natural=compat == "published-natural")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the published program makes of a request."""

    request: SongRequest
    """With the settings it would use, and the lyrics as they were given."""

    backbone_prompt: list[int]
    superres_prompt: list[int]
    max_tokens: int
    """Ids the backbone may write, an even number."""

    notices: tuple[Notice, ...]
    """What it does without a word."""


def plan_song(
    request: SongRequest,
    *,
    published: Published,
    layout: TokenLayout,
    tokenizer: TextTokenizer,
    positions: tuple[int, int],
) -> Plan:
    """Prepare a request as the published program does.

    Args:
        request: what is asked for.
        published: the program's numbers.
        layout: the alphabet of the models.
        tokenizer: their text tokenizer.
        positions: longest stream of the backbone and of super-resolution. The published program
            goes on past what its models were trained for; a model here stops at its end.

    Raises:
        RequestError: guidance, which the program does not have; a duration that these models have
            no word for, or prompts that leave no room for a song.
    """
    if request.guidance_scale not in (None, 1.0):
        raise RequestError(
            f"guidance_scale is {request.guidance_scale:g}: the published program has no guidance; "
            "leave it out or leave out compat"
        )
    whole = published_prompt(request, layout, tokenizer)
    fine = published_prompt(request, layout, tokenizer, describe=not published.natural)
    backbone_prompt = clamp_published(whole, published.most_backbone_prompt)
    superres_prompt = clamp_published(fine, published.most_superres_prompt)
    room = min(positions[0] - len(backbone_prompt), 2 * (positions[1] - len(superres_prompt)))
    max_tokens = min(published.most_tokens, room) // COARSE_LEVELS * COARSE_LEVELS
    if max_tokens < COARSE_LEVELS:
        raise RequestError(
            f"the prompts are {len(backbone_prompt)} and {len(superres_prompt)} tokens long: this "
            f"model reads {positions[0]} and {positions[1]} positions, song included"
        )
    low, high = published.temperatures
    used = dataclasses.replace(
        request,
        duration_s=60.0 * published_minutes(request.duration_s),
        top_k=min(request.top_k, published.most_top_k),
        temperature=min(max(request.temperature, low), high),
        superres_top_k=request.superres_top_k or published.superres_top_k,
    )
    lost = (len(whole) - len(backbone_prompt), len(fine) - len(superres_prompt))
    return Plan(
        request=used,
        backbone_prompt=backbone_prompt,
        superres_prompt=superres_prompt,
        max_tokens=max_tokens,
        notices=tuple(_notices(request, used, lost, len(backbone_prompt), published)),
    )


def _notices(
    asked: SongRequest, used: SongRequest, lost: tuple[int, int], num_prompt: int, one: Published
) -> Iterator[Notice]:
    """Say what the published program does not."""
    for name in ("duration_s", "top_k", "temperature"):
        was, now = getattr(asked, name), getattr(used, name)
        if was != now:
            message = f"as published: {name} is {now:g} instead of {was:g}"
            yield Notice(code="published_setting", message=message, value=float(now))
    for part, num in zip(("backbone", "super-resolution"), lost, strict=True):
        if num:
            message = f"as published: the last {num} tokens of the prompt for {part} are cut out"
            yield Notice(code="published_cut", message=message, value=float(num))
    if num_prompt + one.most_tokens > one.engine_positions:
        message = (
            f"the published program would fail here: after a prompt of {num_prompt} tokens its "
            f"engine has no room for {one.most_tokens}"
        )
        yield Notice(code="published_failure", message=message, value=float(num_prompt))


def write_sketch(
    plan: Plan,
    *,
    published: Published,
    backbone: Backbone,
    on_event: OnEvent | None = None,
    should_stop: ShouldStop | None = None,
) -> tuple[npt.NDArray[np.int16], str]:
    """Return codes_2T and why they end.

    Raises:
        StageError: what was sampled is no song; the published program fails there too.
    """
    tell: OnEvent = on_event if on_event is not None else lambda _: None
    for notice in plan.notices:
        tell(notice)
    layout = backbone.config.layout
    clock = StageClock(stage="backbone", total=plan.max_tokens // COARSE_LEVELS, on_event=on_event)
    is_wrong = False

    def heard(place: int, token: int) -> None:
        nonlocal is_wrong
        if not is_wrong and not fits_its_place(token, place, layout):
            is_wrong = True
            message = f"id {token} at place {place} is no code of level {place % COARSE_LEVELS}"
            tell(Notice(code="published_failure", message=message, value=float(token)))
        if place % COARSE_LEVELS == COARSE_LEVELS - 1:
            clock.report((place + 1) // COARSE_LEVELS)

    tokens_S, ended = generate_free(
        backbone,
        plan.backbone_prompt,
        max_tokens=plan.max_tokens,
        temperature=plan.request.temperature,
        top_k=plan.request.top_k,
        seed=plan.request.seed,
        on_token=heard,
        should_stop=should_stop,
    )
    if ended == "cancelled" and not len(tokens_S):
        return np.zeros((COARSE_LEVELS, 0), dtype=np.int16), ended
    codes_2T = paired_codes(tokens_S, layout)
    if ended != "cancelled":
        clock.finish()
    if ended == "limit" and plan.max_tokens < published.most_tokens:
        message = (
            f"stopped after {codes_2T.shape[1]} frames, the most this model reads; the published "
            f"program would go on to {published.most_tokens // COARSE_LEVELS}"
        )
        tell(Notice(code="published_limit", message=message, value=float(codes_2T.shape[1])))
    return codes_2T.cpu().numpy().astype(np.int16), ended
