"""How fast this computer would make a song, measured in about two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from khala.infer.limits import FrameBounds
from khala.infer.pipeline import Khala
from khala.song import SongRequest
from khala.superres.complete import Sketch, complete_songs

__all__ = ["SpeedEstimate", "estimate_speed"]

REQUEST = SongRequest(prompt="pop, piano", lyrics="[Verse]\nla la la", duration_s=30.0, levels=2)
SHARE_BACKBONE, SHARE_SUPERRES, SHARE_CODEC = 0.4, 0.4, 0.2
DECODED_FRAMES = 65


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedEstimate:
    """Seconds that a 30 s song with all levels would take here."""

    backbone_s: float
    superres_s: float
    codec_s: float

    @property
    def total_s(self) -> float:
        """All stages, without loading the model."""
        return self.backbone_s + self.superres_s + self.codec_s


def estimate_speed(model: Khala, *, budget_s: float = 2.0) -> SpeedEstimate:
    """Run each stage for a part of ``budget_s`` (at least once) and scale it to a 30 s song."""
    prompt = model.prompt(REQUEST)
    num_frames = model.bounds(REQUEST, prompt).most
    num_levels = model.superres.config.layout.num_levels
    frame_s = _seconds_per_unit(
        lambda stop: _frames(model, prompt, num_frames, stop), SHARE_BACKBONE * budget_s
    )
    level_s = _seconds_per_unit(
        lambda stop: _levels(model, prompt, num_frames, stop), SHARE_SUPERRES * budget_s
    )
    codes_1QT = torch.zeros(1, num_levels, DECODED_FRAMES, dtype=torch.int64)
    decode_s = _seconds_per_unit(
        lambda stop: _decodes(model, codes_1QT, stop), SHARE_CODEC * budget_s
    )
    return SpeedEstimate(
        backbone_s=frame_s * num_frames,
        superres_s=level_s * (num_levels - 2),
        codec_s=decode_s * num_frames / DECODED_FRAMES,
    )


def _seconds_per_unit(work: Callable[[Callable[[], bool]], int], budget_s: float) -> float:
    """Time ``work``, which does units until it is told to stop and returns how many it did."""
    work(lambda: True)  # the first call of everything is slower than the rest
    started_s = time.monotonic()
    num_units = work(lambda: time.monotonic() - started_s > budget_s)
    return (time.monotonic() - started_s) / max(num_units, 1)


def _frames(model: Khala, prompt: list[int], num_frames: int, stop: Callable[[], bool]) -> int:
    bounds = FrameBounds(least=num_frames, most=num_frames)
    codes_2T, _ = model.coarse(REQUEST, prompt, bounds, should_stop=stop)
    return int(codes_2T.shape[1])


def _levels(model: Khala, prompt: list[int], num_frames: int, stop: Callable[[], bool]) -> int:
    sketch = Sketch(
        prompt_S=torch.tensor(prompt),
        codes_QT=torch.zeros(2, num_frames, dtype=torch.int64),
        seed=0,
    )
    started = False

    def stop_after_one() -> bool:
        nonlocal started
        enough = started and stop()
        started = True
        return enough

    (codes_QT,) = complete_songs(
        model.superres, [sketch], autocast=model.models.plan.products, should_stop=stop_after_one
    )
    return int(codes_QT.shape[0]) - 2


def _decodes(model: Khala, codes_1QT: torch.Tensor, stop: Callable[[], bool]) -> int:
    count = 0
    while count == 0 or not stop():
        model.codec.decode(codes_1QT.to(next(model.codec.parameters()).device))
        count += 1
    return count
