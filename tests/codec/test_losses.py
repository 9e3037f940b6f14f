"""What the codec is judged by in training."""

from __future__ import annotations

import torch

from khala.codec.losses import ReconstructionLoss, ReconstructionLossConfig

RATE_HZ = 44_100


def _loss(made_CN: torch.Tensor, wanted_CN: torch.Tensor) -> dict[str, float]:
    loss = ReconstructionLoss(ReconstructionLossConfig(band_weights=(0.0,) * 4), RATE_HZ)
    terms = loss(made_CN[None], wanted_CN[None], other_fft=1)
    return {name: float(value) for name, value in terms.items()}


def test_opposite_phases_are_no_way_to_right_magnitudes() -> None:
    """Left and right alone would call these two equal, and the mono mix of one is silent."""
    noise_N = torch.randn(8192, generator=torch.Generator().manual_seed(0)) * 0.1
    wanted = torch.stack([noise_N, noise_N])
    same, opposite = _loss(wanted, wanted), _loss(torch.stack([noise_N, -noise_N]), wanted)
    assert same["mel"] == same["log_stft"] == same["linear_stft"] == 0.0
    assert opposite["mel"] > 0.5
    assert opposite["log_stft"] > 0.5


def test_a_wave_that_is_not_stereo_is_judged_as_it_is() -> None:
    noise_1N = torch.randn(1, 8192, generator=torch.Generator().manual_seed(1)) * 0.1
    assert _loss(noise_1N, noise_1N)["mel"] == 0.0
    assert _loss(0.1 * noise_1N, noise_1N)["mel"] > 0.5
