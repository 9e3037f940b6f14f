"""What a caller should know before a song is begun."""

from __future__ import annotations

from khala.infer.events import Notice, OnEvent
from khala.infer.loading import Models
from khala.infer.plan import PARTS, needs
from khala.machine import look_at
from khala.song import SongRequest

__all__ = ["warn_if_dense", "warn_if_tight"]

WORDS_PER_S = 3.5
"""Faster than most people sing: more words than this are worth a warning."""


def warn_if_dense(request: SongRequest, on_event: OnEvent | None) -> None:
    """Say so when the words will not fit: nothing is cut, but some will be missing."""
    words = [word for word in request.lyrics.split() if not word.startswith("[")]
    density = len(words) / request.duration_s
    if density > WORDS_PER_S and on_event is not None:
        message = (
            f"{len(words)} words in {request.duration_s:g} s is {density:.1f} words a second: "
            f"some will not be sung; {len(words) / WORDS_PER_S:.0f} s would fit"
        )
        on_event(Notice(code="dense_lyrics", message=message, value=density))


def warn_if_tight(models: Models, request: SongRequest, on_event: OnEvent | None) -> None:
    """Say so when a song needs more memory than there is: nothing else would, until it is late."""
    scale = request.guidance_scale or models.backbone.config.guidance_scale
    machine = look_at(models.device)
    dtype = models.plan.dtype
    wanted = needs(models.size, machine, request.duration_s, dtype, guided=scale != 1.0)
    work = {part: getattr(wanted, part) for part in PARTS}
    if not models.plan.turns:  # then the weights are there, and are not counted again
        work = {part: size - wanted.weights[part] for part, size in work.items()}
    stage = max(work, key=lambda part: work[part])
    free = machine.free_bytes
    if free is None or work[stage] <= free or on_event is None:
        return
    message = (
        f"this song needs about {work[stage] / 1e9:.1f} GB for its {stage} stage, and "
        f"{free / 1e9:.1f} GB are free: it may fail; a shorter one needs less"
    )
    on_event(Notice(code="tight_memory", message=message, value=float(work[stage])))
