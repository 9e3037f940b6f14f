"""The cheap transform: a mid/side STFT, linear layers, and convolutions over frames.

Shape letters, this file only: B batch, C channels (mid, side), N samples, T frames, P columns of
one frame (patches), L = T * P STFT columns, F frequency bins, D features.

Column l is centred on sample (l + 1/2) * column_hop, so N = T * hop samples give exactly L
columns and come back as exactly N samples. Nothing looks at the whole song (no normalisation over
time), so long audio is coded in chunks with a halo of real context and equals the whole.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from khala.audio import mel_filterbank
from khala.codec.config import CodecConfig, GuideConfig, SpectralConfig
from khala.codec.envelope import Envelope, EnvelopeGain
from khala.codec.fourier import irfft, rfft

__all__ = [
    "Guide",
    "SpectralDecoder",
    "SpectralEncoder",
    "Stft",
    "start_from_pca",
]

INPUT_GAIN = 3.0
"""Compressed spectra are small; this brings what the encoder sees near unit variance."""

SKIP_GAIN = 0.1
"""Scale of the linear maps' outputs: their weights are stored larger, so that an optimiser's steps
move them less, and the start from PCA is refined rather than overwritten."""

EMPHASIS_HZ = (500.0, 3000.0)
"""Where the emphasis of PCA begins and where it grows no more; above 4 kHz it is halved."""

LOG_FLOOR = 1e-5
"""Added to magnitudes before the logarithm: -100 dB of a full-scale sine."""


class Stft(nn.Module):
    """Waveform <-> mid/side spectrum on a grid of whole frames."""

    window: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.pad = (n_fft - hop) // 2
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, wave_BCN: Tensor) -> Tensor:
        """Return the complex spectrum [B, C, L, F]; a full-scale sine has magnitude 1."""
        columns = functional.pad(wave_BCN, (self.pad, self.pad)).unfold(-1, self.n_fft, self.hop)
        # Scales go with the real window: products of complex numbers are several times slower.
        return rfft(columns * (self.window * (4 / self.n_fft)))

    def inverse(self, spectrum_BCLF: Tensor) -> Tensor:
        """Return the least-squares waveform [B, C, N] of a spectrum."""
        batch, channels, columns, _ = spectrum_BCLF.shape
        frames = irfft(spectrum_BCLF) * (self.window * (self.n_fft / 4))
        summed = self._overlap_add(frames.reshape(batch * channels, columns, self.n_fft))
        weight = self.window.square().expand(1, columns, self.n_fft)
        wave = summed / self._overlap_add(weight).clamp_min(1e-6)
        return wave.reshape(batch, channels, columns * self.hop)

    def _overlap_add(self, frames_BLN: Tensor) -> Tensor:
        length = (frames_BLN.shape[1] - 1) * self.hop + self.n_fft
        folded = functional.fold(
            frames_BLN.transpose(1, 2), (1, length), (1, self.n_fft), stride=(1, self.hop)
        )
        return folded[:, 0, 0, self.pad : length - self.pad]


class Block(nn.Module):
    """Residual block: LayerNorm, a linear map of three neighbouring frames, GELU, a linear map."""

    def __init__(self, width: int, expansion: int = 2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(3 * width, expansion * width)
        self.out = nn.Linear(expansion * width, width)
        nn.init.normal_(self.out.weight, std=0.3 / math.sqrt(expansion * width))
        nn.init.zeros_(self.out.bias)

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Return features_BTD with one more look at the two neighbours."""
        padded = functional.pad(self.norm(features_BTD), (0, 0, 1, 1))
        around = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=-1)
        return features_BTD + self.out(functional.gelu(self.mix(around), approximate="tanh"))


def to_mid_side(wave_BCN: Tensor) -> Tensor:
    """Return left/right as mid/side, or the other way: an orthonormal map, its own inverse."""
    left, right = wave_BCN.unbind(1)
    return torch.stack([left + right, left - right], dim=1) * math.sqrt(0.5)


class SpectralEncoder(nn.Module):
    """Mid/side spectrum -> latents_BTD."""

    def __init__(self, config: CodecConfig, spectral: SpectralConfig) -> None:
        super().__init__()
        self.spectral = spectral
        bins = spectral.n_fft // 2 + 1
        self.complex_bins = min(
            bins, int(spectral.complex_top_hz * spectral.n_fft / config.sample_rate_hz)
        )
        fine, coarse = spectral.fine_width, spectral.coarse_width
        self.enter = nn.Linear(config.channels * (bins + 2 * self.complex_bins), fine)
        self.fine = nn.Sequential(*(Block(fine) for _ in range(spectral.encoder_fine_blocks)))
        self.down = nn.Linear(spectral.patches * fine, coarse)
        self.coarse = nn.Sequential(*(Block(coarse) for _ in range(spectral.encoder_coarse_blocks)))
        self.norm = nn.LayerNorm(coarse)
        self.leave = nn.Linear(coarse, config.quantizer.latent_width)
        nn.init.normal_(self.leave.weight, std=0.1 / math.sqrt(coarse))
        nn.init.zeros_(self.leave.bias)
        self.skip_bins = _skip_bins(config, spectral)
        self.skip = nn.Linear(
            2 * sum(self.skip_bins) * spectral.patches, config.quantizer.latent_width, bias=False
        )
        self.envelope = None
        if spectral.envelope is not None:
            self.envelope = Envelope(config, spectral, spectral.envelope)

    def forward(self, spectrum_BCLF: Tensor) -> Tensor:
        """Return latents_BTD of a spectrum with L = T * patches columns."""
        batch, _, columns, _ = spectrum_BCLF.shape
        magnitude = spectrum_BCLF.abs()
        log_magnitude = (torch.log(magnitude + LOG_FLOOR) + 7.0) / 2.5
        real, imag = self._compressed(spectrum_BCLF, magnitude)
        features = torch.cat([log_magnitude, real, imag], dim=-1).transpose(1, 2).flatten(2)
        hidden = self.fine(self.enter(features))
        hidden = hidden.reshape(batch, columns // self.spectral.patches, -1)
        latents: Tensor = self.leave(self.norm(self.coarse(self.down(hidden))))
        latents = latents + SKIP_GAIN * self.skip(self._low(real, imag))
        if self.envelope is not None:
            latents = latents + SKIP_GAIN * self.envelope(magnitude)
        return latents

    def low(self, spectrum_BCLF: Tensor) -> Tensor:
        """Return what the linear map sees: the low compressed spectrum of each frame, [B, T, *]."""
        return self._low(*self._compressed(spectrum_BCLF, spectrum_BCLF.abs()))

    def _compressed(self, spectrum_BCLF: Tensor, magnitude_BCLF: Tensor) -> tuple[Tensor, Tensor]:
        """Return real and imaginary parts below ``complex_top_hz``, magnitudes compressed."""
        low = spectrum_BCLF[..., : self.complex_bins]
        loudness = magnitude_BCLF[..., : self.complex_bins] + LOG_FLOOR
        gain = INPUT_GAIN * loudness ** (self.spectral.compression - 1)
        return low.real * gain, low.imag * gain

    def _low(self, real_BCLF: Tensor, imag_BCLF: Tensor) -> Tensor:
        """Lay the low bins of every channel's columns beside each other, frame by frame."""
        low = [
            part[:, channel, :, :bins]
            for channel, bins in enumerate(self.skip_bins)
            for part in (real_BCLF, imag_BCLF)
        ]
        columns = torch.cat(low, dim=-1)
        return columns.reshape(columns.shape[0], columns.shape[1] // self.spectral.patches, -1)


class SpectralDecoder(nn.Module):
    """latents_BTD -> mid/side spectrum."""

    def __init__(self, config: CodecConfig, spectral: SpectralConfig) -> None:
        super().__init__()
        self.spectral = spectral
        self.channels = config.channels
        fine, coarse = spectral.fine_width, spectral.coarse_width
        self.enter = nn.Linear(config.quantizer.latent_width, coarse)
        self.coarse = nn.Sequential(*(Block(coarse) for _ in range(spectral.decoder_coarse_blocks)))
        self.up = nn.Linear(coarse, spectral.patches * fine)
        self.fine = nn.Sequential(*(Block(fine) for _ in range(spectral.decoder_fine_blocks)))
        self.norm = nn.LayerNorm(fine)
        self.leave = nn.Linear(fine, config.channels * (spectral.n_fft + 2))
        nn.init.normal_(self.leave.weight, std=0.01 / math.sqrt(fine))
        nn.init.zeros_(self.leave.bias)
        self.skip_bins = _skip_bins(config, spectral)
        self.skip = nn.Linear(
            config.quantizer.latent_width, 2 * sum(self.skip_bins) * spectral.patches, bias=False
        )
        self.gain = None
        if spectral.envelope is not None:
            self.gain = EnvelopeGain(config, spectral, spectral.envelope)

    def forward(self, latents_BTD: Tensor) -> Tensor:
        """Return the complex spectrum [B, C, L, F]."""
        batch, frames, _ = latents_BTD.shape
        hidden = self.up(self.coarse(self.enter(latents_BTD)))
        hidden = hidden.reshape(batch, frames * self.spectral.patches, -1)
        hidden = self.norm(self.fine(hidden))
        out = self.leave(hidden).float()
        out = out.reshape(batch, hidden.shape[1], self.channels, 2, -1).transpose(1, 2)
        out = out + SKIP_GAIN * self._low(latents_BTD, hidden.shape[1], out.shape[-1])
        real, imag = out.unbind(3)
        # |out|^(1/c) with the phase of out; the small constant keeps the gradient at 0 finite.
        power = real.square() + imag.square() + 1e-10
        gain = power ** (0.5 * (1 / self.spectral.compression - 1))
        if self.gain is not None:
            gain = gain * self.gain(power.sqrt() * gain, latents_BTD, hidden)
        return torch.complex(real * gain, imag * gain)

    def _low(self, latents_BTD: Tensor, columns: int, bins: int) -> Tensor:
        """Return the linear map's part of the output, [B, C, L, 2, F]."""
        low = self.skip(latents_BTD).float().reshape(latents_BTD.shape[0], columns, -1)
        parts = low.split([2 * below for below in self.skip_bins], dim=2)
        padded = [
            functional.pad(part.unflatten(-1, (2, below)), (0, bins - below))
            for part, below in zip(parts, self.skip_bins, strict=True)
        ]
        return torch.stack(padded, dim=1)


def _skip_bins(config: CodecConfig, spectral: SpectralConfig) -> tuple[int, ...]:
    """Return each channel's bins of the linear map; none whose phases the encoder does not see."""
    tops_hz = [min(top_hz, spectral.complex_top_hz) for top_hz in spectral.skip_top_hz]
    most = spectral.n_fft // 2 + 1
    bins = [min(most, int(hz * spectral.n_fft / config.sample_rate_hz)) for hz in tops_hz]
    return tuple(bins)


def _emphasis(encoder: SpectralEncoder, hz_per_bin: float) -> Tensor:
    """Return the weight of each number of :meth:`SpectralEncoder.low` in PCA."""
    weights = []
    for bins in encoder.skip_bins:
        hz_F = torch.arange(bins) * hz_per_bin
        octaves = (hz_F / EMPHASIS_HZ[0]).clamp(1.0, EMPHASIS_HZ[1] / EMPHASIS_HZ[0])
        weight_F = octaves**encoder.spectral.skip_emphasis
        weight_F[hz_F > 4000.0] *= 0.5
        weights.append(weight_F.repeat(2))
    return torch.cat(weights).repeat(encoder.spectral.patches)


@torch.no_grad()
def start_from_pca(
    encoder: SpectralEncoder, decoder: SpectralDecoder, moment_DD: Tensor, hz_per_bin: float
) -> None:
    """Set the linear maps to the principal components of frames' :meth:`SpectralEncoder.low`.

    Latents get unit mean variance; the decoder's map undoes the encoder's.

    Args:
        encoder, decoder: changed in place.
        moment_DD: mean outer product of those frames.
        hz_per_bin: width of an STFT bin.
    """
    weight_D = _emphasis(encoder, hz_per_bin).to(moment_DD)
    first = 0 if encoder.envelope is None else encoder.envelope.config.width
    width = encoder.skip.weight.shape[0] - first
    energy, vectors = torch.linalg.eigh(weight_D[:, None] * moment_DD * weight_D)
    basis = vectors[:, -width:].flip(1).T
    kept = basis.shape[0]
    gain = float((width / energy[-width:].sum().clamp_min(1e-9)).sqrt())
    encoder.skip.weight.zero_()
    decoder.skip.weight.zero_()
    rows = slice(first, first + kept)
    encoder.skip.weight[rows] = basis * weight_D * (gain / SKIP_GAIN)
    decoder.skip.weight[:, rows] = basis.T / weight_D[:, None] / (gain * INPUT_GAIN * SKIP_GAIN)


class Guide(nn.Module):
    """Mid/side spectrum -> the singer's cepstrum, in which level 0 is chosen."""

    mel_FM: Tensor

    def __init__(self, config: CodecConfig, spectral: SpectralConfig, guide: GuideConfig) -> None:
        super().__init__()
        self.patches = spectral.patches
        mels = mel_filterbank(config.sample_rate_hz, spectral.n_fft, guide.num_mels, 60.0, 12_000.0)
        self.register_buffer("mel_FM", mels.T.contiguous(), persistent=False)
        width = guide.width
        self.enter = nn.Linear(config.channels * guide.num_mels, width)
        self.fine = Block(width)
        self.down = nn.Linear(spectral.patches * width, 2 * width)
        self.coarse = nn.Sequential(*(Block(2 * width) for _ in range(guide.blocks)))
        self.norm = nn.LayerNorm(2 * width)
        self.leave = nn.Linear(2 * width, guide.key_width)

    def forward(self, spectrum_BCLF: Tensor) -> Tensor:
        """Return predicted cepstra [B, T, key_width]."""
        batch, _, columns, _ = spectrum_BCLF.shape
        power = spectrum_BCLF.real.square() + spectrum_BCLF.imag.square()
        log_mel = (torch.log(power @ self.mel_FM + LOG_FLOOR**2) + 12.0) / 4.0
        hidden = self.fine(self.enter(log_mel.transpose(1, 2).flatten(2)))
        hidden = self.down(hidden.reshape(batch, columns // self.patches, -1))
        keys: Tensor = self.leave(self.norm(self.coarse(hidden)))
        return keys
