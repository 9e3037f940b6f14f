"""Training against a discriminator: what it learns from, and what the codec learns from it.

The discriminator is shown recordings and decoded waveforms and learns to tell them apart; the codec
learns to be taken for a recording, and to have the recording's features in every layer of the
discriminator (EnCodec, https://arxiv.org/abs/2210.13438, section 3.4). Scores are per stretch of
time and frequency, losses are means over stretches, then over STFT sizes.

Shape letters, this file only: B batch, C channels, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from khala.codec.balancer import Balancer
from khala.codec.discriminator import Discriminator, DiscriminatorConfig, Judgement
from khala.codec.losses import Part, Parts, weighted_sum
from khala.errors import ConfigError

__all__ = ["Adversary", "AdversaryConfig"]

LOSSES = ("hinge", "least_squares")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdversaryConfig:
    """A discriminator, how it learns, and how much the codec heeds it.

    Sizes are the published ones. The paper states no weights and no rates: losses, rate and betas
    are EnCodec's, weights are our own, meant as shares beside those of the reconstruction.
    """

    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The network."""

    start_step: int = 0
    """Step from which it learns and is heeded; never before quantisation has begun."""

    loss: str = "hinge"
    """"hinge", or "least_squares"."""

    adversarial: float = 4.0
    """Weight of being taken for a recording."""

    features: float = 4.0
    """Weight of the distance to the recording's features, relative to their size."""

    balance: bool = False
    """Weights, those of the reconstruction too, are shares of the gradient, not factors.

    As factors they give the adversary little to say at first: the gradient of a discriminator that
    has learned nothing is about a hundredth of that of the spectral terms.
    """

    balance_norm: float = 5.0
    """Length of the balanced gradient of one decoded waveform, were all terms to agree."""

    balance_decay: float = 0.999
    """Of the running means of the terms' gradients, per step."""

    lr: float = 3e-4
    """The discriminator's peak learning rate; it follows the schedule of the run."""

    beta1: float = 0.5
    """Of the discriminator's AdamW, which has no weight decay."""

    beta2: float = 0.9
    """Likewise."""

    clip_norm: float = 10.0
    """Longest gradient of the discriminator allowed."""

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ConfigError(f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")
        for name in ("start_step", "adversarial", "features"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("balance_norm", "lr", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("balance_decay", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie in [0, 1), not {getattr(self, name)}")


class Adversary:
    """A discriminator with its losses. It is no part of the codec's weights, nor of their average.

    ``num_taught`` counts the batches whose gradients have been added up in the discriminator since
    whoever optimises it set it back to 0.
    """

    def __init__(self, config: AdversaryConfig, channels: int) -> None:
        self.config = config
        self.discriminator = Discriminator(config.discriminator, channels)
        self.balancer = Balancer(config.balance_norm, config.balance_decay)
        self.num_taught = 0

    def judge(
        self,
        made_BCN: Tensor,
        wave_BCN: Tensor,
        parts: Parts,
        phased_B: Tensor | None = None,
        *,
        active: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of what was decoded, and the adversary's terms, for the log.

        Unless gradients are off, the discriminator's own are added to on the way.

        Args:
            made_BCN: decoded waveforms with their graph.
            wave_BCN: the recordings.
            parts: terms of the reconstruction.
            phased_B: True for the examples whose phases can be known: only these are compared
                feature by feature; None: all.
            active: False leaves the discriminator out and unchanged.
        """
        terms: dict[str, Tensor] = {}
        if active:
            taught, real = self._teach(made_BCN.detach(), wave_BCN)
            with _frozen(self.discriminator):
                fake = self.discriminator(made_BCN)
            config = self.config
            parts = parts | {
                "adversarial": Part(config.adversarial, self._adversarial(fake)),
                "features": Part(config.features, _feature_distance(real, fake, phased_B)),
            }
            terms = {name: parts[name].value.detach() for name in ("adversarial", "features")}
            terms["discriminator"] = taught
        if self.config.balance and torch.is_grad_enabled():
            with torch.autocast(made_BCN.device.type, enabled=False):
                return self.balancer(parts, made_BCN), terms
        return weighted_sum(parts), terms

    def _teach(self, made_BCN: Tensor, wave_BCN: Tensor) -> tuple[Tensor, list[Judgement]]:
        """Add to the discriminator's gradients; return its loss, and its view of the recordings."""
        real, fake = self.discriminator(wave_BCN), self.discriminator(made_BCN)
        told = [_wrong(a.scores_B1LF, True, self.config.loss) for a in real]
        told += [_wrong(a.scores_B1LF, False, self.config.loss) for a in fake]
        loss = torch.stack(told).sum() / len(real)
        if torch.is_grad_enabled():
            with torch.autocast(made_BCN.device.type, enabled=False):
                loss.backward()  # type: ignore[no-untyped-call]
            self.num_taught += 1
        seen = [
            Judgement(a.scores_B1LF.detach(), tuple(x.detach() for x in a.features_BELF))
            for a in real
        ]
        return loss.detach(), seen

    def _adversarial(self, fake: list[Judgement]) -> Tensor:
        """Return how far decoded waveforms are from being taken for recordings."""
        return torch.stack([_wrong(a.scores_B1LF, True, self.config.loss) for a in fake]).mean()


def _wrong(scores_B1LF: Tensor, is_real: bool, loss: str) -> Tensor:
    """Return how far scores are from what they ought to be: 1 or more, or -1 (0) or less."""
    scores = scores_B1LF.float()
    if loss == "hinge":
        return (1 - scores if is_real else 1 + scores).clamp_min(0).mean()
    return (scores - float(is_real)).square().mean()


def _feature_distance(
    real: list[Judgement], fake: list[Judgement], phased_B: Tensor | None
) -> Tensor:
    """Return the mean absolute difference of features relative to their mean size."""
    distances = []
    for wanted, made in zip(real, fake, strict=True):
        for wanted_BELF, made_BELF in zip(wanted.features_BELF, made.features_BELF, strict=True):
            apart_B = (wanted_BELF - made_BELF).abs().flatten(1).mean(1, dtype=torch.float32)
            size = wanted_BELF.abs().mean(dtype=torch.float32).clamp_min(1e-6)
            judged_B = torch.ones_like(apart_B) if phased_B is None else phased_B.to(apart_B)
            distances.append((apart_B * judged_B).sum() / judged_B.sum().clamp_min(1.0) / size)
    return torch.stack(distances).mean()


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module within a ``with`` block, and none into it."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
