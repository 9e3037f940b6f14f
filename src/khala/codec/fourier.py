"""Real Fourier transforms whose gradients are real transforms too.

The gradient of ``torch.fft.rfft`` is computed as a full complex transform, about four times the
work; a codec's training step is mostly transforms, so both directions are written out here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["irfft", "rfft"]


def rfft(signal: Tensor) -> Tensor:
    """Return ``torch.fft.rfft`` over the last dimension, of any length."""
    return _Rfft.apply(signal)  # type: ignore[no-untyped-call]


def irfft(spectrum: Tensor) -> Tensor:
    """Return ``torch.fft.irfft`` over the last dimension, of even length 2 (F - 1)."""
    return _Irfft.apply(spectrum)  # type: ignore[no-untyped-call]


def _with_ends(spectrum: Tensor, factor: float, *, has_middle: bool = True) -> Tensor:
    """Return the spectrum with the bins scaled that stand for themselves alone: first and last.

    The others stand for two conjugate ones, which is where the factor 2 between the transform's
    adjoint and its inverse comes from; scaling the ends is cheaper than scaling all the others.
    A signal of odd length has no bin at half the sampling rate: its last one is of the others.
    """
    scaled = spectrum.clone()
    scaled[..., 0] *= factor
    if has_middle:
        scaled[..., -1] *= factor
    return scaled


class _Rfft(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor) -> Tensor:
        ctx.length = signal.shape[-1]
        return torch.fft.rfft(signal)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,), length = grads, ctx.length
        doubled = _with_ends(grad, 2.0, has_middle=length % 2 == 0)
        return torch.fft.irfft(doubled, length, norm="forward").mul_(0.5)


class _Irfft(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft(spectrum)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        return _with_ends(torch.fft.rfft(grad * 2.0, norm="forward"), 0.5)
