"""Losses by their share of the gradient, not by their scale.

EnCodec's balancer (https://arxiv.org/abs/2210.13438, section 3.4): the gradient of every term with
respect to the decoded waveform is divided by the running mean of its norm, and gets its weight's
share of one fixed norm. A weight then says how much a term pulls, whatever unit it is in.

Shape letters, this file only: B batch, C channels, N samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from khala.codec import ranks
from khala.codec.losses import Parts, weighted_sum
from khala.errors import CheckpointError

__all__ = ["Balancer"]

EPS = 1e-12
"""Added to norms: a term without any gradient stays without."""


class Balancer:
    """Combines terms into one scalar whose gradient has a given norm and given shares.

    The running means move by :meth:`settle`, once a step however many batches it has, so that a
    step is the same in one process and in several. They are state: a checkpoint must keep
    :meth:`state_tensors`.
    """

    def __init__(self, norm: float, decay: float) -> None:
        """Give every waveform a gradient of length ``norm``, with ``decay`` of the running means.

        Args:
            norm: length of the gradient of one waveform, were all terms to pull the same way.
            decay: per step.
        """
        self.norm = norm
        self.decay = decay
        self._running: dict[str, Tensor] = {}
        self._seen: dict[str, list[Tensor]] = {}

    def __call__(self, parts: Parts, wave_BCN: Tensor) -> Tensor:
        """Return a scalar: its value is the plain weighted sum, its gradient the balanced one.

        Args:
            parts: terms that depend on ``wave_BCN``; those of weight 0 are left out.
            wave_BCN: what was decoded, with its graph.
        """
        parts = {name: part for name, part in parts.items() if part.weight}
        total = sum(part.weight for part in parts.values())
        balanced_BCN = torch.zeros_like(wave_BCN)
        for name, part in parts.items():
            (gradient_BCN,) = torch.autograd.grad(part.value, [wave_BCN], retain_graph=True)
            # Of a mean over B waveforms: the gradient of one of them is B times as long.
            share = self.norm * part.weight / total / len(wave_BCN)
            balanced_BCN += gradient_BCN * (share / (self._usual_norm(name, gradient_BCN) + EPS))
        value = weighted_sum(parts).detach()
        pull = (wave_BCN * balanced_BCN).sum()
        return value + (pull - pull.detach())

    @torch.no_grad()
    def _usual_norm(self, name: str, gradient_BCN: Tensor) -> Tensor:
        """Return a term's running mean norm over one waveform; its norm here if it is new."""
        norm = gradient_BCN.flatten(1).norm(dim=1).mean()
        self._seen.setdefault(name, []).append(norm)
        if name not in self._running:
            return norm
        sums, weight = self._running[name].to(norm)
        return sums / weight

    @torch.no_grad()
    def settle(self) -> None:
        """Move the running means by what was seen since the last time, in all processes."""
        for name, norms in self._seen.items():
            norm = torch.stack(norms).mean()
            ranks.average([norm])
            # Sum and weight of all norms so far: their quotient has no bias toward zero.
            latest = torch.stack([norm, torch.ones_like(norm)])
            before = self._running.get(name)
            self._running[name] = (
                latest if before is None else self.decay * before.to(latest) + latest
            )
        self._seen.clear()

    def forget(self) -> None:
        """Drop what was seen since the last time."""
        self._seen.clear()

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the running means by the names of the terms."""
        return dict(self._running)

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take the running means back.

        Raises:
            CheckpointError: one of them is no pair of numbers.
        """
        for name, tensor in tensors.items():
            if tensor.shape != (2,):
                raise CheckpointError(
                    f"balance of {name} must be two numbers: {tuple(tensor.shape)}"
                )
        self._running = {name: tensor.clone() for name, tensor in tensors.items()}
