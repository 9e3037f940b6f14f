"""Decoding in pieces as the published program does: without context, joined by long cross-fades.

Each piece hears nothing of its neighbours, so its first and last frames are wrong; the cross-fade
hides that where pieces overlap in full. A last piece shorter than the overlap lies inside the one
before it, and the end of the song is faded over to sound that was decoded without its past. Only
``compat="published"`` uses this.

Shape letters: B batch, C channels, N samples, Q levels, T frames.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from khala.codec.codec import Codec
from khala.errors import ConfigError, TokenError

CHUNK_FRAMES = 1_920
"""Frames decoded at once: 89.2 s."""

OVERLAP_FRAMES = 480
"""Frames of each piece that the one before has too: 22.3 s."""


@torch.inference_mode()
def decode_crossfaded(
    codec: Codec,
    codes_BQT: Tensor,
    *,
    chunk_frames: int = CHUNK_FRAMES,
    overlap_frames: int = OVERLAP_FRAMES,
    on_chunk: Callable[[int], None] | None = None,
) -> Tensor:
    """Return wave_BCN, N = T * hop, joined with linear weights from 1 to 0, both included.

    Args:
        codec: any codec.
        codes_BQT: codes of any prefix of the levels, at least one frame.
        chunk_frames: frames of a piece.
        overlap_frames: frames that two pieces share, fewer than ``chunk_frames``.
        on_chunk: called after each piece with the number of frames there are.

    Raises:
        ConfigError: the pieces would not move on.
        TokenError: no frame, no level, too many levels, or a code outside its codebook.
    """
    if not 0 <= overlap_frames < chunk_frames:
        raise ConfigError(
            f"overlap_frames is {overlap_frames}: 0 to {chunk_frames - 1} are allowed with pieces "
            f"of {chunk_frames} frames"
        )
    num_frames = codes_BQT.shape[2]
    if num_frames == 0:
        raise TokenError("there is no frame to decode")
    hop = codec.config.hop
    wave_BCN = codes_BQT.new_empty(0)
    for start in range(0, num_frames, chunk_frames - overlap_frames):
        stop = min(start + chunk_frames, num_frames)
        piece_BCN = codec.decode(codes_BQT[..., start:stop], chunk_frames=None)
        if start == 0:
            wave_BCN = piece_BCN
        else:
            num = min(overlap_frames * hop, piece_BCN.shape[-1])
            weight_N = torch.linspace(1.0, 0.0, num, device=piece_BCN.device)
            faded_BCN = wave_BCN[..., wave_BCN.shape[-1] - num :] * weight_N
            faded_BCN = faded_BCN + piece_BCN[..., :num] * (1.0 - weight_N)
            kept_BCN = wave_BCN[..., : wave_BCN.shape[-1] - num]
            wave_BCN = torch.cat((kept_BCN, faded_BCN, piece_BCN[..., num:]), dim=-1)
        if on_chunk is not None:
            on_chunk(stop)
    return wave_BCN
