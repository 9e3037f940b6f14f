"""The published transform: strided convolutions with Snake activations and weight norm.

Module names follow the released checkpoint (``encoder.block.1.block.0.block.1.weight_v`` ...), so
its tensors load one to one. Weight norm is written out (``weight_g * weight_v / |weight_v|``, the
norm taken for each index of dimension 0, which for a transposed convolution is the input channel)
because those two tensors are what the checkpoint holds. Snake: https://arxiv.org/abs/2006.08195;
the layout follows the Descript codec, https://arxiv.org/abs/2306.06546.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from khala.codec.config import CodecConfig, ConvConfig
from khala.errors import CheckpointError

__all__ = ["ConvDecoder", "ConvEncoder", "NoEncoder"]


class Snake(nn.Module):
    """x + sin(a x)^2 / a, with one learned a per channel: periodic where audio is periodic."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Return x_BCN activated."""
        return x_BCN + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x_BCN).square()


class Conv(nn.Module):
    """Weight-normed 1-d convolution, plain or transposed."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        padding: int,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.dilation, self.padding = stride, dilation, padding
        self.transposed = transposed
        shape = (inputs, outputs, kernel) if transposed else (outputs, inputs, kernel)
        # A third of the variance comes out, as from torch's own layers, which the published code
        # starts from: residual units double it, so all of it would be full scale ten thousandfold.
        self.weight_v = nn.Parameter(torch.randn(shape) / math.sqrt(3 * inputs * kernel / stride))
        norm = self.weight_v.detach().flatten(1).norm(dim=1)
        self.weight_g = nn.Parameter(norm[:, None, None].clone())
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.is_folded = False

    def fold(self) -> None:
        """Put the effective weight where its direction was, so that nobody scales it again.

        Both tensors still say the same; only training must not follow.
        """
        weight = self.weight().detach()
        self.weight_g.detach().copy_(weight.flatten(1).norm(dim=1)[:, None, None])
        self.weight_v.detach().copy_(weight)
        self.is_folded = True

    def weight(self) -> Tensor:
        """Return the effective weight."""
        if self.is_folded:
            return self.weight_v
        norm = self.weight_v.flatten(1).norm(dim=1)[:, None, None]
        return self.weight_v * (self.weight_g / norm)

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Return the convolved signal."""
        if self.transposed:
            return functional.conv_transpose1d(
                x_BCN, self.weight(), self.bias, stride=self.stride, padding=self.padding
            )
        return functional.conv1d(
            x_BCN,
            self.weight(),
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )


class ResidualUnit(nn.Module):
    """Snake, dilated convolution of 7, Snake, convolution of 1, added to the input."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(width),
            Conv(width, width, 7, dilation=dilation, padding=3 * dilation),
            Snake(width),
            Conv(width, width, 1, padding=0),
        )

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Return x plus the branch."""
        return x_BCN + self.block(x_BCN)


class EncoderBlock(nn.Module):
    """Three residual units at the input width, then a strided convolution that doubles it."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(ResidualUnit(width, dilation) for dilation in (1, 3, 9)),
            Snake(width),
            Conv(width, 2 * width, 2 * stride, stride=stride, padding=math.ceil(stride / 2)),
        )

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Return [B, 2 * width, N / stride]."""
        return self.block(x_BCN)


class DecoderBlock(nn.Module):
    """A transposed convolution that halves the width, then three residual units."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        padding = math.ceil(stride / 2)
        self.block = nn.Sequential(
            Snake(width),
            Conv(width, width // 2, 2 * stride, stride=stride, padding=padding, transposed=True),
            *(ResidualUnit(width // 2, dilation) for dilation in (1, 3, 9)),
        )

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Return [B, width / 2, N * stride]."""
        return self.block(x_BCN)


class ConvEncoder(nn.Module):
    """wave_BCN, N a multiple of the hop -> latents_BTD."""

    def __init__(self, config: CodecConfig, conv: ConvConfig) -> None:
        super().__init__()
        assert conv.encoder_filters is not None
        width = conv.encoder_filters
        layers: list[nn.Module] = [Conv(config.channels, width, 7, padding=3)]
        for stride in conv.encoder_strides:
            layers.append(EncoderBlock(width, stride))
            width *= 2
        layers += [Snake(width), Conv(width, config.quantizer.latent_width, 3, padding=1)]
        self.block = nn.Sequential(*layers)

    def forward(self, wave_BCN: Tensor) -> Tensor:
        """Return latents_BTD, T = N / hop."""
        return self.block(wave_BCN).transpose(1, 2)


class NoEncoder(nn.Module):
    """Stands where weights with a decoder alone have no encoder, and says so when asked."""

    def forward(self, *_: Tensor) -> Tensor:
        """Raise CheckpointError."""
        raise CheckpointError(
            "this codec has no encoder: its weights came with a decoder alone, which plays songs "
            "and cannot encode recordings"
        )


class ConvDecoder(nn.Module):
    """latents_BTD -> wave_BCN. Nothing limits the output: it may exceed full scale."""

    def __init__(self, config: CodecConfig, conv: ConvConfig) -> None:
        super().__init__()
        width = conv.decoder_filters * 2 ** len(conv.decoder_strides)
        layers: list[nn.Module] = [Conv(config.quantizer.latent_width, width, 7, padding=3)]
        for stride in conv.decoder_strides:
            layers.append(DecoderBlock(width, stride))
            width //= 2
        layers += [Snake(width), Conv(width, config.channels, 7, padding=3)]
        self.model = nn.Sequential(*layers)

    def forward(self, latents_BTD: Tensor) -> Tensor:
        """Return wave_BCN, N = T * hop."""
        return self.model(latents_BTD.transpose(1, 2))
