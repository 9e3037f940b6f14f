"""The log spectrum as latents of its own, and the decoder's part that follows it.

Shape letters, this file only: B batch, C channels (mid, side), T frames, L STFT columns, F bins,
M bands, D latents or features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from khala.audio import mel_filterbank
from khala.codec.config import CodecConfig, EnvelopeConfig, SpectralConfig

__all__ = ["Envelope", "EnvelopeGain", "start_envelope"]

FLOOR = 3e-4
"""Added to mel magnitudes before the logarithm: -70 dB, below which nothing is heard in a song."""

SIDE_WEIGHT = 0.6
"""The side is heard less than the mid: errors of its envelope count less."""

MOST_GAIN = 8.0
"""Nats by which a band is made louder or softer at most: 70 dB, the whole range above the floor."""


class Bands(nn.Module):
    """Magnitudes of mid and side -> log mel bands of every STFT column."""

    mid_FM: Tensor
    side_FM: Tensor

    def __init__(self, config: CodecConfig, spectral: SpectralConfig, envelope: EnvelopeConfig):
        super().__init__()
        self.patches = spectral.patches
        self.num_mid, self.num_side = envelope.mid_bands, envelope.side_bands
        for name, num_bands in (("mid_FM", self.num_mid), ("side_FM", self.num_side)):
            mels_MF = mel_filterbank(
                config.sample_rate_hz, spectral.n_fft, num_bands, 40.0, envelope.top_hz
            )
            self.register_buffer(name, mels_MF.T.contiguous(), persistent=False)

    @property
    def per_frame(self) -> int:
        """Numbers in a codec frame: every column's mid, every second one's side."""
        return self.patches * self.num_mid + self.patches // 2 * self.num_side

    def forward(self, magnitude_BCLF: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log bands of mid and of side, [B, L, M] each."""
        mid = torch.log(magnitude_BCLF[:, 0] @ self.mid_FM + FLOOR)
        return mid, torch.log(magnitude_BCLF[:, 1] @ self.side_FM + FLOOR)

    def to_frames(self, mid_BLM: Tensor, side_BLM: Tensor) -> Tensor:
        """Lay the bands of a frame's columns beside each other, [B, T, per_frame]."""
        batch, columns, _ = mid_BLM.shape
        frames = columns // self.patches
        pairs = side_BLM.reshape(batch, columns // 2, 2, -1).mean(2)
        side = SIDE_WEIGHT * pairs.reshape(batch, frames, -1)
        return torch.cat([mid_BLM.reshape(batch, frames, -1), side], dim=-1)

    def from_frames(self, frames_BTM: Tensor) -> tuple[Tensor, Tensor]:
        """Return mid and side by column from what `to_frames` made."""
        batch, frames, _ = frames_BTM.shape
        num_mid = self.patches * self.num_mid
        mid = frames_BTM[..., :num_mid].reshape(batch, frames * self.patches, -1)
        side = frames_BTM[..., num_mid:].reshape(batch, frames * self.patches // 2, -1)
        return mid, side.repeat_interleave(2, dim=1) / SIDE_WEIGHT


class Envelope(nn.Module):
    """The encoder's part: log mel bands of each frame -> latents, by one linear map."""

    def __init__(self, config: CodecConfig, spectral: SpectralConfig, envelope: EnvelopeConfig):
        super().__init__()
        self.config = envelope
        self.bands_of = Bands(config, spectral, envelope)
        self.leave = nn.Linear(self.bands_of.per_frame, config.quantizer.latent_width)

    def forward(self, magnitude_BCLF: Tensor) -> Tensor:
        """Return what is added to the latents, [B, T, D]."""
        out_BTD: Tensor = self.leave(self.bands(magnitude_BCLF))
        return out_BTD

    def bands(self, magnitude_BCLF: Tensor) -> Tensor:
        """Return the log mel bands of each frame, [B, T, M]."""
        return self.bands_of.to_frames(*self.bands_of(magnitude_BCLF))


class EnvelopeGain(nn.Module):
    """Brings what was made toward the envelope that the latents tell, band by band.

    It hears how loud each band came out, and multiplies by a part of what is missing: how large a
    part is learned, moment by moment. So the levels are right even where the phases are anything.
    """

    mid_spread_MF: Tensor
    side_spread_MF: Tensor

    def __init__(self, config: CodecConfig, spectral: SpectralConfig, envelope: EnvelopeConfig):
        super().__init__()
        self.bands_of = Bands(config, spectral, envelope)
        for name in ("mid", "side"):
            spread_MF = _spread(getattr(self.bands_of, f"{name}_FM").T)
            self.register_buffer(f"{name}_spread_MF", spread_MF, persistent=False)
        bands = envelope.mid_bands + envelope.side_bands
        self.readout = nn.Linear(config.quantizer.latent_width, self.bands_of.per_frame)
        self.correction = nn.Linear(spectral.fine_width, bands)
        self.trust = nn.Linear(spectral.fine_width, bands)
        for layer in (self.correction, self.trust):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, magnitude_BCLF: Tensor, latents_BTD: Tensor, hidden_BLD: Tensor) -> Tensor:
        """Return factors [B, C, L, F] for a spectrum with these magnitudes."""
        wanted = torch.cat(self.bands_of.from_frames(self.readout(latents_BTD).float()), dim=-1)
        wanted = wanted + self.correction(hidden_BLD).float()
        missing = (wanted - torch.cat(self.bands_of(magnitude_BCLF), dim=-1)).clamp(
            -MOST_GAIN, MOST_GAIN
        )
        logs = torch.sigmoid(self.trust(hidden_BLD).float()) * missing
        mid, side = logs.split([self.bands_of.num_mid, self.bands_of.num_side], dim=-1)
        return torch.exp(torch.stack([mid @ self.mid_spread_MF, side @ self.side_spread_MF], dim=1))


def _spread(mels_MF: Tensor) -> Tensor:
    """Return weights [M, F] that draw a curve over bins through values at bands; they sum to 1."""
    sums_F = mels_MF.sum(0)
    spread_MF = mels_MF / sums_F.clamp_min(1e-6)
    inside = (sums_F > 1e-6).nonzero()[:, 0]
    spread_MF[0, : int(inside[0])] = 1.0
    spread_MF[-1, int(inside[-1]) + 1 :] = 1.0
    return spread_MF


@torch.no_grad()
def start_envelope(
    envelope: Envelope,
    reader: EnvelopeGain,
    mean_D: Tensor,
    moment_DD: Tensor,
    num_others: int,
    *,
    scale: float,
) -> None:
    """Set the map of the log mel bands to their principal components, in the first latents.

    Args:
        envelope: changed in place.
        reader: the decoder's part that reads them back; changed in place.
        mean_D, moment_DD: mean and mean outer product of :meth:`Envelope.bands`.
        num_others: the other latents, which have unit mean variance.
        scale: what the encoder multiplies the envelope's output by.
    """
    covariance = (moment_DD - torch.outer(mean_D, mean_D)).double()
    energy, vectors = torch.linalg.eigh(covariance)
    width = envelope.config.width
    basis = vectors[:, -width:].flip(1).T
    kept = basis.shape[0]
    wanted = envelope.config.share * num_others
    gain = float((wanted / energy[-width:].sum().clamp_min(1e-9)).sqrt()) / scale
    envelope.leave.weight.zero_()
    envelope.leave.bias.zero_()
    envelope.leave.weight[:kept] = (basis * gain).to(envelope.leave.weight)
    envelope.leave.bias[:kept] = (-gain * (basis @ mean_D.double())).to(envelope.leave.bias)
    reader.readout.weight.zero_()
    reader.readout.weight[:, :kept] = (basis.T / (gain * scale)).to(mean_D)
    reader.readout.bias.copy_(mean_D)
