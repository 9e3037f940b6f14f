"""Prompt and frames of several songs side by side: where each stands in its stream.

Each row is [prompt, frames, padding] without a gap, so that positions count as in a song alone.
Shape letters: B batch, P padded prompt, T padded frames, S stream positions (P + T), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Lengths of a padded batch; everything else follows from them."""

    prompt_lengths_B: Tensor
    """Tokens of each prompt, at least 1."""

    num_frames_B: Tensor
    """Frames of each song."""

    max_prompt: int
    """P: width of the padded prompts."""

    max_frames: int
    """T: width of the padded frames."""

    is_full: bool
    """No row has padding: nothing needs to be moved or masked."""

    @classmethod
    def full(cls, batch: int, prompt: int, frames: int, device: torch.device) -> Packing:
        """Describe a batch without padding."""
        return cls(
            prompt_lengths_B=torch.full((batch,), prompt, device=device),
            num_frames_B=torch.full((batch,), frames, device=device),
            max_prompt=prompt,
            max_frames=frames,
            is_full=True,
        )

    def pack(self, prompt_BPD: Tensor, frames_BTD: Tensor) -> Tensor:
        """Join prompts and frames into streams_BSD; rows of padding are zero."""
        if self.is_full:
            return torch.cat((prompt_BPD, frames_BTD), dim=1)
        where_S = torch.arange(self.max_prompt + self.max_frames, device=prompt_BPD.device)
        prompt_B1, frames_B1 = self.prompt_lengths_B[:, None], self.num_frames_B[:, None]
        in_frames_BS = self.max_prompt + where_S - prompt_B1
        source_BS = torch.where(where_S < prompt_B1, where_S, in_frames_BS)
        is_pad_BS = where_S >= prompt_B1 + frames_B1
        source_BS = source_BS.masked_fill(is_pad_BS, self.max_prompt + self.max_frames)
        zero_B1D = torch.zeros_like(frames_BTD[:, :1])
        return _rows(torch.cat((prompt_BPD, frames_BTD, zero_B1D), dim=1), source_BS)

    def key_mask(self) -> Tensor | None:
        """Return the [B, S] mask that is False on padding, or None when there is none."""
        if self.is_full:
            return None
        where_S = torch.arange(
            self.max_prompt + self.max_frames, device=self.prompt_lengths_B.device
        )
        return where_S < (self.prompt_lengths_B + self.num_frames_B)[:, None]

    def frames_of(self, stream_BSD: Tensor, *, shift: int = 0) -> Tensor:
        """Return the rows of the frames, [B, T, D]; ``shift=-1`` gives those one step before.

        Rows past a song's own frames hold something meaningless.
        """
        if self.is_full:
            start = self.max_prompt + shift
            return stream_BSD[:, start : start + self.max_frames]
        where_T = torch.arange(self.max_frames, device=stream_BSD.device)
        return _rows(stream_BSD, self.prompt_lengths_B[:, None] + where_T + shift)

    def frame_mask(self) -> Tensor:
        """Return the [B, T] mask that is True on real frames."""
        where_T = torch.arange(self.max_frames, device=self.num_frames_B.device)
        return where_T < self.num_frames_B[:, None]


def _rows(stream_BSD: Tensor, index_BS: Tensor) -> Tensor:
    """Pick rows of each batch item."""
    index = index_BS[:, :, None].expand(-1, -1, stream_BSD.shape[2])
    return stream_BSD.gather(1, index)
