"""Decoding a song while its codes are still being written.

Shape letters: Q levels, T frames, C channels, N samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from khala.codec.codec import Codec
from khala.errors import TokenError

__all__ = ["DecodeStream"]


class DecodeStream:
    """Takes frames as they come and gives their sound as soon as nothing later can change it.

    All pieces one after another are what `Codec.decode` makes of all codes. A frame is heard once
    ``codec.halo_frames`` more are there; every piece decodes as many on both sides again, so pieces
    should be several times longer.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._codes_QT: Tensor | None = None
        self.num_decoded = 0
        """Frames whose sound was given."""

    @property
    def num_ready(self) -> int:
        """Frames whose sound could be given now."""
        return max(self._num_frames - self._codec.halo_frames - self.num_decoded, 0)

    @property
    def _num_frames(self) -> int:
        return 0 if self._codes_QT is None else self._codes_QT.shape[1]

    def add(self, codes_QT: Tensor) -> None:
        """Take the next frames, with as many levels as all others.

        Raises:
            TokenError: another number of levels.
        """
        if self._codes_QT is None:
            self._codes_QT = codes_QT
            return
        if codes_QT.ndim != 2 or codes_QT.shape[0] != self._codes_QT.shape[0]:
            raise TokenError(
                f"these frames have the shape {tuple(codes_QT.shape)}, not {len(self._codes_QT)} "
                "levels as those before"
            )
        self._codes_QT = torch.cat((self._codes_QT, codes_QT), dim=1)

    def read(self, *, end: bool = False) -> Tensor:
        """Return wave_CN of all frames that are ready; at the ``end`` of those that are left."""
        stop = self._num_frames if end else self.num_decoded + self.num_ready
        start, halo = self.num_decoded, self._codec.halo_frames
        hop, channels = self._codec.config.hop, self._codec.config.channels
        if self._codes_QT is None or stop == start:
            return torch.zeros(channels, 0)
        low, high = max(0, start - halo), min(stop + halo, self._num_frames)
        device = next(self._codec.parameters()).device
        codes_1QT = self._codes_QT[None, :, low:high].to(device)
        wave_1CN = self._codec.decode(codes_1QT, chunk_frames=None)
        self.num_decoded = stop
        return wave_1CN[0, :, (start - low) * hop : (stop - low) * hop]
