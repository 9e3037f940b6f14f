"""What a model sounds like while it is trained: RUN/samples/step-0000500.wav."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from khala.audio import write_audio
from khala.train.board import Board
from khala.train.hooks import Hook
from khala.train.state import TrainState

__all__ = ["Samples"]

SAMPLE_RATE_HZ = 44_100


class Samples(Hook):
    """Writes a sound at every validation, if the task can make one."""

    def __init__(self, board: Board, say: Callable[[str], None]) -> None:
        self._board, self._say = board, say

    def after_step(self, state: TrainState, losses: dict[str, Tensor]) -> None:  # noqa: ARG002
        every = state.config.validate_every
        if every and state.step % every == 0:
            self._sample(state)

    def at_end(self, state: TrainState) -> None:
        if state.stopped is None:
            self._sample(state)

    def _sample(self, state: TrainState) -> None:
        path = state.folder / "samples" / f"step-{state.step:07d}.wav"
        if path.exists():
            return
        model = state.task.model
        model.eval()
        try:
            with state.average.applied(), torch.no_grad():
                wave_CN = state.task.sample(state.step)
        finally:
            model.train()
        if wave_CN is None or not state.ranks.is_first:
            return
        sound_CN = wave_CN.float().cpu()
        sound_CN = sound_CN / max(1.0, float(sound_CN.abs().max()))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, sound_CN.numpy(), sample_rate_hz=SAMPLE_RATE_HZ)
        self._board.sound(state.step, sound_CN)
        self._say(f"step {state.step} sounds like {path}")
