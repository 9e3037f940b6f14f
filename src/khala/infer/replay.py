"""Making a song again and comparing: the proof that a song file says how it was made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from khala.adapter import PARTS, digest_name, shown_adapters
from khala.errors import CheckpointError, RequestError
from khala.infer.events import OnEvent, ShouldStop
from khala.infer.pipeline import Khala
from khala.song import Song
from khala.song.request import MIN_LEVELS

__all__ = ["Replay", "replay"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What came out when a song was made again."""

    identical: bool
    other_models: tuple[str, ...]
    """Parts whose digest is not the one in the song file."""

    first_level: int | None = None
    """Coarsest level that differs."""

    first_frame: int | None = None
    """First frame that differs at that level."""

    num_different: int = 0
    """Codes that differ, of ``num_codes``."""

    num_codes: int = 0


def replay(
    model: Khala,
    song: Song,
    *,
    on_event: OnEvent | None = None,
    should_stop: ShouldStop | None = None,
) -> Replay:
    """Make ``song`` again from its request, in the mode it was made, and compare every code.

    The sketch is compared with a new sketch (a stopped song with the beginning of one); finer
    levels with new ones made from the song's own sketch, so one wrong frame does not spread.

    Raises:
        RequestError: the song is a recording: nothing made it.
        CheckpointError: it was made with adapters that are not those of ``model``, or not so
            strong; names them.
        StageError: as published, what the backbone sampled is no song.
        Cancelled: ``should_stop`` said so.
    """
    if song.ended == "recording":
        raise RequestError("this song was encoded from a recording: there is nothing to replay")
    _check_adapters(model, song)
    stop_at = song.num_frames if song.ended == "cancelled" else None

    written = 0

    def enough() -> bool:
        nonlocal written
        done = written == stop_at
        written += 1
        return done or (should_stop is not None and should_stop())

    coarse_2T, _ = model.sketch(song.request, song.compat, on_event, enough)
    sketch = Song(
        request=song.request,
        codes_QT=song.codes_QT[:MIN_LEVELS],
        seed=song.seed,
        model=song.model,
        digests=song.digests,
        ended=song.ended,
        compat=song.compat,
    )
    again = model.refine(sketch, levels=song.num_levels, on_event=on_event, should_stop=should_stop)
    num_frames = max(coarse_2T.shape[1], song.num_frames)
    wanted = np.full((song.num_levels, num_frames), -1, dtype=np.int16)
    made = wanted.copy()
    wanted[:, : song.num_frames] = song.codes_QT
    made[:MIN_LEVELS, : coarse_2T.shape[1]] = coarse_2T
    made[MIN_LEVELS:, : song.num_frames] = again.codes_QT[MIN_LEVELS:]
    different = wanted != made
    at = np.argwhere(different)
    return Replay(
        identical=not len(at),
        other_models=tuple(
            part
            for part, digest in sorted(song.digests.items())
            if model.digests.get(part) != digest
        ),
        first_level=int(at[0][0]) if len(at) else None,
        first_frame=int(at[0][1]) if len(at) else None,
        num_different=len(at),
        num_codes=wanted.size,
    )


def _check_adapters(model: Khala, song: Song) -> None:
    """Refuse to compare a song with what other adapters make: they would only differ."""
    for part in PARTS:
        theirs, ours = (one.get(digest_name(part)) for one in (song.digests, model.digests))
        if theirs == ours:
            continue
        if theirs is None:
            raise CheckpointError(
                f"this song was made without a {part} adapter: leave out --lora for it"
            )
        found = "none is given" if ours is None else f"given is {shown_adapters(ours)}"
        raise CheckpointError(
            f"this song was made with the {part} adapter {shown_adapters(theirs)}, and {found}: "
            "give its folder and strength with --lora FOLDER:STRENGTH"
        )
