"""What level 0 is guided toward: the cepstrum of the singer's stem.

Shape letters, this file only: B batch, N samples, T frames, S sub-frames, G = S * coefficients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from khala.audio import mel_filterbank
from khala.codec.config import CodecConfig, GuideConfig

__all__ = ["voice_cepstra"]

NUM_MELS = 40
VOICE_FLOOR = 1e-3
"""Mel magnitude below which the singer counts as silent: -60 dB."""


def voice_cepstra(vocals_BN: Tensor, config: CodecConfig, guide: GuideConfig) -> Tensor:
    """Return the cepstra of a vocal stem, [B, T, G], low coefficients first in each sub-frame.

    The log spectrum in 40 mel bands up to 7.6 kHz, smoothed by keeping its first cosine
    coefficients: vowels and consonants, not pitch. Loudness (coefficient 0) counts half, so that
    codes are spent on what is sung rather than how loud.
    """
    hop = config.hop // guide.sub_frames
    n_fft = 2 * hop
    window = torch.hann_window(n_fft, device=vocals_BN.device)
    columns = functional.pad(vocals_BN, (hop // 2, hop // 2)).unfold(-1, n_fft, hop) * window
    power = torch.fft.rfft(columns).abs().square() * (4 / n_fft) ** 2
    mels = mel_filterbank(config.sample_rate_hz, n_fft, NUM_MELS, 80.0, 7600.0).to(power)
    log_mel = torch.log(power @ mels.T + VOICE_FLOOR**2) - 2 * math.log(VOICE_FLOOR)
    cepstra = log_mel @ _cosines(NUM_MELS, guide.num_coefficients).to(log_mel)
    cepstra[..., 0] *= 0.5
    batch, steps, _ = cepstra.shape
    return cepstra.reshape(batch, steps // guide.sub_frames, guide.key_width) * 0.2


def _cosines(bands: int, coefficients: int) -> Tensor:
    """Return the first columns of the orthonormal DCT-II, [bands, coefficients]."""
    angle = math.pi / bands * (torch.arange(bands) + 0.5)[:, None] * torch.arange(coefficients)
    basis = torch.cos(angle) * math.sqrt(2 / bands)
    basis[:, 0] *= math.sqrt(0.5)
    return basis
