"""The codec's adversary: looks for what gives away a copy, in spectra of several resolutions.

Shape letters, this file only: B batch, C channels, N samples, L STFT columns, F bins, E features.

One network per STFT size, after the multi-scale STFT discriminator of EnCodec
(https://arxiv.org/abs/2210.13438, section 3.4): real and imaginary parts of every audio channel are
the channels of a picture of columns and bins; convolutions of 3 columns by 9 bins follow, dilated
over time and strided over frequency. The published codec's sizes grow by the golden ratio and are
no powers of two, so that no two resolutions share their bins. Training only: it is never exported.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from khala.codec.fourier import rfft
from khala.errors import ConfigError

__all__ = ["Discriminator", "DiscriminatorConfig", "Judgement"]

SLOPE = 0.2
"""Of the leaky rectifiers."""

MIN_FFT_SIZE = 16
"""Three halvings leave a smaller transform no bins to tell apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """Sizes of the adversary; the defaults are the published ones, about 12 M parameters."""

    fft_sizes: tuple[int, ...] = (78, 126, 206, 334, 542, 876, 1418, 2296)
    """STFT windows in samples, one network each; any length will do, odd ones too."""

    overlap: int = 4
    """Windows over each sample: the hop is the window divided by this, rounded down."""

    width: int = 128
    """Features of every hidden layer. A step's work grows with its square."""

    dilations: tuple[int, ...] = (1, 2, 4)
    """Over time, of the strided layers; each of them halves the bins."""

    def __post_init__(self) -> None:
        if not self.fft_sizes or min(self.fft_sizes) < MIN_FFT_SIZE:
            raise ConfigError(
                f"fft_sizes must be at least {MIN_FFT_SIZE} each, and one or more: {self.fft_sizes}"
            )
        if not 1 <= self.overlap <= min(self.fft_sizes):
            raise ConfigError(
                f"overlap must lie in 1..{min(self.fft_sizes)}, the smallest of fft_sizes, "
                f"not {self.overlap}"
            )
        if self.width < 1:
            raise ConfigError(f"width must be at least 1, not {self.width}")
        if not self.dilations or min(self.dilations) < 1:
            raise ConfigError(
                f"dilations must be at least 1 each, and one or more: {self.dilations}"
            )


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one network says of a batch of waveforms."""

    scores_B1LF: Tensor
    """High where a stretch of time and frequency seems recorded, low where it seems decoded."""

    features_BELF: tuple[Tensor, ...]
    """Outputs of the hidden layers."""


class Discriminator(nn.Module):
    """wave_BCN -> a judgement from every STFT size."""

    def __init__(self, config: DiscriminatorConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.scales = nn.ModuleList(
            _ScaleDiscriminator(config, size, channels) for size in config.fft_sizes
        )

    def forward(self, wave_BCN: Tensor) -> list[Judgement]:
        """Judge waveforms of at least the largest STFT size."""
        return [scale(wave_BCN) for scale in self.scales]


class _ScaleDiscriminator(nn.Module):
    """One STFT size: spectrum, convolutions, scores."""

    window: Tensor

    def __init__(self, config: DiscriminatorConfig, size: int, channels: int) -> None:
        super().__init__()
        self.hop = size // config.overlap
        window = torch.hann_window(size)
        # White noise of standard deviation 1 has magnitudes near 1, whatever the size.
        self.register_buffer("window", window / window.norm(), persistent=False)
        width = config.width
        layers = [_normed(nn.Conv2d(2 * channels, width, (3, 9), padding=(1, 4)))]
        for dilation in config.dilations:
            strided = nn.Conv2d(
                width, width, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4)
            )
            layers.append(_normed(strided))
        layers.append(_normed(nn.Conv2d(width, width, 3, padding=1)))
        self.layers = nn.ModuleList(layers)
        self.scores = _normed(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, wave_BCN: Tensor) -> Judgement:
        """Return the scores and the features of every hidden layer."""
        columns_BCLN = wave_BCN.float().unfold(-1, len(self.window), self.hop) * self.window
        spectrum_BCLF = rfft(columns_BCLN)
        x = torch.cat([spectrum_BCLF.real, spectrum_BCLF.imag], dim=1)
        features = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return Judgement(self.scores(x), tuple(features))


def _normed(layer: nn.Conv2d) -> nn.Module:
    """Return the layer, at its start, with weights split into length and direction per output.

    It starts without bias and at the scale that keeps the size of a signal from layer to layer:
    with torch's own start, scores are a constant to which a waveform adds a thousandth.
    """
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return nn.utils.parametrizations.weight_norm(layer)
