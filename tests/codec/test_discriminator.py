"""The codec's adversary: its sizes, and what it can see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from khala.codec.discriminator import Discriminator, DiscriminatorConfig
from khala.errors import ConfigError

TINY = DiscriminatorConfig(fft_sizes=(31, 126), width=3)


def test_the_default_is_the_published_one() -> None:
    """A smaller adversary than the paper's 12 M would let pass what the paper's hears."""
    config = DiscriminatorConfig()
    assert config.fft_sizes == (78, 126, 206, 334, 542, 876, 1418, 2296)
    assert config.width == 128
    discriminator = Discriminator(config, 2)
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 11_926_544


@pytest.mark.parametrize("size", [78, 126, 206, 334, 542, 876, 1418, 2296, 77, 127, 1419])
def test_any_size_is_seen_column_by_column(size: int) -> None:
    """A size that fails on somebody's machine ends their run at the first step."""
    config = DiscriminatorConfig(fft_sizes=(size,), width=2)
    wave_BCN = torch.randn(1, 2, 4096, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (judgement,) = Discriminator(config, 2)(wave_BCN)
    columns = (4096 - size) // (size // 4) + 1
    bins = size // 2 + 1
    assert judgement.features_BELF[0].shape == (1, 2, columns, bins)
    assert judgement.scores_B1LF.shape == (1, 1, columns, -(-bins // 8))
    judgement.scores_B1LF.sum().backward()
    assert wave_BCN.grad is not None
    assert bool(torch.isfinite(wave_BCN.grad).all())
    assert float(wave_BCN.grad[..., 2048].abs().min()) > 0


def test_every_weight_learns() -> None:
    """A part without a gradient stays noise, and the codec is trained against noise."""
    discriminator = Discriminator(TINY, 2)
    wave_BCN = torch.randn(2, 2, 1024, generator=torch.Generator().manual_seed(0))
    judgements = discriminator(wave_BCN)
    torch.stack(
        [judgement.scores_B1LF.square().mean() for judgement in judgements]
    ).sum().backward()
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


@torch.no_grad()
def test_phases_and_sides_are_seen() -> None:
    """An adversary deaf to phases or to one side would let smeared attacks and a dead side pass."""
    discriminator = Discriminator(TINY, 2)
    wave_BCN = torch.randn(1, 2, 1024, generator=torch.Generator().manual_seed(0))
    scores = discriminator(wave_BCN)[0].scores_B1LF
    for other_BCN in (-wave_BCN, wave_BCN.flip(1), wave_BCN * torch.tensor([[[1.0], [0.0]]])):
        assert float((discriminator(other_BCN)[0].scores_B1LF - scores).abs().max()) > 1e-3


@torch.no_grad()
def test_a_fresh_adversary_hears_more_than_its_own_bias() -> None:
    """In bfloat16 a constant score with a trace of the music in it carries no gradient at all."""
    torch.manual_seed(0)
    discriminator = Discriminator(replace(TINY, width=16), 2)
    wave_BCN = 0.1 * torch.randn(2, 2, 4096, generator=torch.Generator().manual_seed(0))
    for judgement in discriminator(wave_BCN):
        scores = judgement.scores_B1LF
        assert float(scores.std()) > 0.02
        assert float(scores.std()) > 0.5 * float(scores.mean().abs())


def test_nonsense_sizes_are_refused() -> None:
    """A typing mistake must cost a line of text, not a night."""
    for name, value in (
        ("fft_sizes", ()),
        ("fft_sizes", (8, 126)),
        ("overlap", 0),
        ("overlap", 32),
        ("width", 0),
        ("dilations", ()),
        ("dilations", (1, 0)),
    ):
        with pytest.raises(ConfigError, match=name):
            replace(TINY, **{name: value})
