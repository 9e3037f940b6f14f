"""Hearing a song before it is finished: its sketch while it is written, then sharper and sharper.

Shape letters: Q levels, T frames, C channels, N samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from khala.codec import Codec
from khala.codec.stream import DecodeStream
from khala.errors import RequestError
from khala.infer.events import OnEvent, Preview

__all__ = ["PreviewSettings", "Previewer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewSettings:
    """What is heard of a song that is not finished yet."""

    first_s: float = 1.0
    """Length of the first piece of the sketch: short, to be heard early."""

    every_s: float = 4.0
    """Length of the others; each costs its own sound and that of a few frames around it."""

    levels: tuple[int, ...] = (8, 32)
    """Numbers of levels at which the whole song is decoded; what it ends with is not among them."""

    def __post_init__(self) -> None:
        if not (0.0 < self.first_s <= 60.0 and 0.0 < self.every_s <= 60.0):
            raise RequestError("a preview's pieces are above 0 and at most 60 s long")
        if list(self.levels) != sorted(set(self.levels)) or any(k < 3 for k in self.levels):
            raise RequestError(f"previews have rising numbers of levels above 2, not {self.levels}")


class Previewer:
    """Makes the previews of one song."""

    def __init__(self, codec: Codec, settings: PreviewSettings, on_event: OnEvent) -> None:
        self._codec, self._settings, self._on_event = codec, settings, on_event
        self._stream = DecodeStream(codec)
        self._num_seen = 0

    def sketched(self, codes_2T: Tensor, *, end: bool = False) -> None:
        """Look at the sketch so far, and let a piece be heard if there is enough that is new."""
        rate = self._codec.config.frame_rate_hz
        start = self._stream.num_decoded
        seconds = self._settings.every_s if start else self._settings.first_s
        new = codes_2T.shape[1] - self._num_seen
        if not end and self._stream.num_ready + new < seconds * rate:
            return
        if new:
            self._stream.add(codes_2T[:, self._num_seen :])
            self._num_seen = codes_2T.shape[1]
        wave_CN = self._stream.read(end=end)
        if wave_CN.shape[1]:
            self._tell(wave_CN, len(codes_2T), float(start / rate), is_whole=False)

    def refined(self, codes_QT: Tensor) -> None:
        """Let the whole song be heard if it has a number of levels that was asked for."""
        if len(codes_QT) not in self._settings.levels:
            return
        device = next(self._codec.parameters()).device
        wave_1CN = self._codec.decode(codes_QT[None].to(device))
        self._tell(wave_1CN[0], len(codes_QT), 0.0, is_whole=True)

    def _tell(self, wave_CN: Tensor, levels: int, start_s: float, *, is_whole: bool) -> None:
        wave = wave_CN.to(torch.float32).cpu().numpy()
        self._on_event(
            Preview(
                levels=levels,
                start_s=start_s,
                wave_CN=wave,
                sample_rate_hz=self._codec.config.sample_rate_hz,
                is_whole=is_whole,
            )
        )
