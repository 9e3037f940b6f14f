"""Moving the codec's discriminator: an optimiser of its own beside the loop's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from khala.codec import ranks
from khala.codec.adversary import Adversary
from khala.errors import CheckpointError
from khala.train.optim import ADAM_EPS, lr_factor
from khala.train.state import TrainConfig

__all__ = ["AdversaryUpdates"]


class AdversaryUpdates:
    """AdamW for a discriminator, on the schedule of the run; in a checkpoint, never in an export.

    The gradients were added up by `Adversary.judge`, one batch after the other.
    """

    def __init__(self, adversary: Adversary, train: TrainConfig) -> None:
        self.adversary = adversary
        self._train = train
        self._parameters = dict(adversary.discriminator.named_parameters())
        config = adversary.config
        self._inner = torch.optim.AdamW(
            self._parameters.values(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=ADAM_EPS,
            weight_decay=0.0,
            fused=True,
        )

    def clip(self) -> float:
        """Make the gradients those of the mean over all batches of all processes, and clip them.

        Returns:
            their norm before; 0.0 when it was shown nothing since the last step.
        """
        if not self.adversary.num_taught:
            return 0.0
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        torch._foreach_div_(gradients, float(self.adversary.num_taught))
        ranks.average(gradients)
        return float(
            nn.utils.clip_grad_norm_(self._parameters.values(), self.adversary.config.clip_norm)
        )

    def step(self, step: int) -> None:
        """Move the discriminator along its clipped gradients, if it was shown anything.

        Args:
            step: of the schedule, the same as that of the codec's own update.
        """
        self.adversary.balancer.settle()
        if self.adversary.num_taught:
            for group in self._inner.param_groups:
                group["lr"] = self.adversary.config.lr * lr_factor(step, self._train)
            self._inner.step()
        self.forget()

    def forget(self) -> None:
        """Drop the gradients, and what was seen since the last step."""
        self.adversary.balancer.forget()
        self._inner.zero_grad(set_to_none=True)
        self.adversary.num_taught = 0

    def state_tensors(self) -> dict[str, Tensor]:
        """Return weights, moments and running means, for a checkpoint."""
        discriminator, state = self.adversary.discriminator, self._inner.state
        moments = {
            f"moments.{name}:{key}": value
            for name, parameter in self._parameters.items()
            for key, value in state.get(parameter, {}).items()
        }
        weights = {f"weights.{name}": tensor for name, tensor in discriminator.state_dict().items()}
        means = self.adversary.balancer.state_tensors()
        return weights | moments | {f"balance.{name}": tensor for name, tensor in means.items()}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state_tensors` gave.

        Raises:
            CheckpointError: a moment belongs to no parameter.
            RuntimeError: the weights are those of another discriminator.
        """
        groups: dict[str, dict[str, Tensor]] = {"weights": {}, "moments": {}, "balance": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        self.adversary.discriminator.load_state_dict(groups["weights"], strict=True)
        for name, tensor in groups["moments"].items():
            owner, _, key = name.rpartition(":")
            if owner not in self._parameters:
                raise CheckpointError(f"the checkpoint has a moment {name} of no parameter")
            parameter = self._parameters[owner]
            self._inner.state[parameter][key] = tensor.to(parameter.device)
        self.adversary.balancer.load_state_tensors(groups["balance"])
