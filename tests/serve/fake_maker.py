"""A maker without models: the same request gives the same song, at once, or as badly as asked.

Words of the prompt say what goes wrong: "crash" (the worker dies in the detail), "suicide" (it
kills itself from inside), "hang" (it stands still), "broken" (an exception), "slow" (a tenth of a
second for each step).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from khala.audio import read_audio
from khala.errors import Cancelled, StageError
from khala.serve.making import Wave
from khala.serve.settings import Settings
from khala.song import Song, SongRequest

HOP, RATE_HZ = 2_048, 44_100


def load(settings: Settings) -> FakeMaker:
    return FakeMaker(settings.model)


def codes(request: SongRequest, levels: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    """What the song must be: anybody can work it out."""
    num_frames = max(1, int(request.duration_s * RATE_HZ / HOP))
    draws = np.random.default_rng([request.seed, len(request.lyrics)])
    return draws.integers(0, 1024, size=(64, num_frames)).astype(np.int16)[:levels]


class FakeMaker:
    def __init__(self, model: str) -> None:
        self.about: dict[str, Any] = {
            "model": model, "digests": {"codec": "0" * 64}, "levels": 64, "longest_s": 300.0,
            "sample_rate_hz": RATE_HZ, "frame_rate_hz": RATE_HZ / HOP, "device": "cpu",
            "dtype": "float32",
        }  # fmt: skip

    def song(self, request: SongRequest, levels: int, ended: str = "limit") -> Song:
        return Song(
            request=request, codes_QT=codes(request, levels), seed=request.seed,
            model=self.about["model"], digests=self.about["digests"], lyrics=request.lyrics,
            created="", ended=ended,
        )  # fmt: skip

    def sketch(
        self,
        request: SongRequest,
        *,
        on_progress: Callable[[int, int, float | None], None],
        on_notice: Callable[[str, str], None],
        on_piece: Callable[[Wave, float], None],
        should_stop: Callable[[], bool],
    ) -> Song:
        steps = 10
        for done in range(steps):
            if should_stop():
                raise Cancelled("stopped", finished=self.song(request, 2, "cancelled"))
            self._step(request, on_progress, done + 1, steps)
            if done == 4:
                on_piece(np.zeros((2, RATE_HZ // 2), np.float32), 0.0)
        if "notice" in request.prompt:
            on_notice("dense_lyrics", "many words")
        return self.song(request, 2)

    def refine(
        self,
        song: Song,
        levels: int,
        *,
        on_progress: Callable[[int, int, float | None], None],
        should_stop: Callable[[], bool],
    ) -> Song:
        prompt = song.request.prompt
        if "crash" in prompt:
            os._exit(3)
        if "suicide" in prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        if "broken" in prompt:
            raise StageError("superres failed: broken", stage="superres")
        for done in range(song.num_levels, levels):
            if "hang" in prompt and done > song.num_levels + 4:
                time.sleep(10_000)
            if should_stop():
                raise Cancelled("stopped", finished=self.song(song.request, done))
            self._step(song.request, on_progress, done + 1 - song.num_levels,
                       levels - song.num_levels)  # fmt: skip
        return self.song(song.request, levels)

    def sound(self, song: Song, *, should_stop: Callable[[], bool]) -> Wave:
        if should_stop():
            raise Cancelled("stopped")
        num = song.num_frames * HOP
        tone = np.sin(np.arange(num, dtype=np.float32) * (0.01 + 0.001 * (song.seed % 50)))
        return np.stack([tone, tone]) * np.float32(0.3)

    def encode(self, path: Path, levels: int) -> Song:
        wave_CN = read_audio(path)
        num_frames = -(-wave_CN.shape[1] // HOP)
        return Song.from_recording(
            np.zeros((levels, num_frames), np.int16), model=self.about["model"],
            digests=self.about["digests"],
        )  # fmt: skip

    def picture(self, song: Song, wave_CN: Wave) -> bytes | None:
        return b"picture" if song.num_levels and wave_CN.size else None

    def _step(
        self,
        request: SongRequest,
        on_progress: Callable[[int, int, float | None], None],
        done: int,
        total: int,
    ) -> None:
        time.sleep(0.1 if "slow" in request.prompt else 0.002)
        on_progress(done, total, 0.1 * (total - done))
