"""Optimisers: groups, schedule, and Muon for the matrices of a transformer.

Muon (K. Jordan 2024, https://kellerjordan.github.io/posts/muon; scaled as in
https://arxiv.org/abs/2502.16982): the momentum of a matrix is replaced by the nearest
half-orthogonal matrix, found by a few Newton-Schulz products, so that no direction dominates.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from khala.errors import CheckpointError
from khala.train.ranks import ALONE, Ranks, local, whole
from khala.train.state import TrainConfig
from khala.train.task import Task

__all__ = ["Muon", "Optimiser", "lr_factor", "orthogonalise"]

ADAM_EPS = 1e-8
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class Optimiser:
    """Every parameter of a task, each in the optimiser its role asks for."""

    def __init__(self, task: Task, config: TrainConfig) -> None:
        self.config = config
        self.parameters = {n: p for n, p in task.model.named_parameters() if p.requires_grad}
        # sharded parameters and whole ones cannot be in one fused step
        roles: dict[tuple[str, bool], list[nn.Parameter]] = defaultdict(list)
        muon: list[nn.Parameter] = []
        for name, parameter in self.parameters.items():
            role = task.role(name, parameter)
            if role == "matrix" and config.optimiser == "muon" and parameter.ndim == 2:
                muon.append(parameter)
            else:
                roles[role, isinstance(parameter, DTensor)].append(parameter)
        decays = {"matrix": config.weight_decay}
        groups = [
            {"params": members, "weight_decay": decays.get(role, 0.0)}
            for (role, _), members in roles.items()
        ]
        self.inner: list[torch.optim.Optimizer] = []
        if groups:
            betas = (config.beta1, config.beta2)
            self.inner.append(
                torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=ADAM_EPS, fused=True)
            )
        if muon:
            self.inner.append(
                Muon(muon, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
            )

    def clip(self, ranks: Ranks = ALONE) -> Tensor:
        """Shorten the gradient to ``clip_norm``; return its length before that."""
        if ranks.num == 1:
            return nn.utils.clip_grad_norm_(
                self.parameters.values(), self.config.clip_norm, error_if_nonfinite=False
            ).detach()
        gradients = [one.grad for one in self.parameters.values() if one.grad is not None]
        parts = [one.to_local() for one in gradients if isinstance(one, DTensor)]
        rest = [one for one in gradients if not isinstance(one, DTensor)]
        device = next(iter(self.parameters.values())).device
        norm = (ranks.add(_square(parts, device)) + _square(rest, device)).sqrt()
        scale = (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([local(one) for one in gradients], scale)
        return norm

    def step(self, step: int) -> None:
        """Update every parameter with the learning rate of ``step``; drop the gradients."""
        lr = self.config.lr * lr_factor(step, self.config)
        for optimiser in self.inner:
            for group in optimiser.param_groups:
                group["lr"] = lr
            optimiser.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the moments by parameter name."""
        states = {id(p): state for inner in self.inner for p, state in inner.state.items()}
        return {
            f"{name}:{key}": value
            for name, parameter in self.parameters.items()
            for key, value in states.get(id(parameter), {}).items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take moments back from a checkpoint.

        Raises:
            CheckpointError: a moment belongs to no parameter.
        """
        owners = {
            id(parameter): inner
            for inner in self.inner
            for group in inner.param_groups
            for parameter in group["params"]
        }
        for name, tensor in tensors.items():
            parameter = self.parameters.get(name.rpartition(":")[0])
            if parameter is None:
                raise CheckpointError(f"the checkpoint has a moment {name} of no parameter")
            state = owners[id(parameter)].state[parameter]
            state[name.rpartition(":")[2]] = tensor.to(parameter.device)

    def room_for(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return an empty moment for a name of `state_tensors`, sharded as its parameter is.

        Raises:
            CheckpointError: it belongs to no parameter.
        """
        parameter = self.parameters.get(name.rpartition(":")[0])
        if parameter is None:
            raise CheckpointError(f"the checkpoint has a moment {name} of no parameter")
        if shape == parameter.shape:
            return torch.zeros_like(parameter.detach(), dtype=dtype)
        return torch.zeros(shape, dtype=dtype)


def _square(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the sum of squares of some tensors, in float32."""
    if not tensors:
        return torch.zeros((), device=device)
    return torch.stack(torch._foreach_norm(list(tensors))).float().square().sum()


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with the step size an AdamW update would have."""

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient; matrices of one shape go together."""
        del closure
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, members in by_shape.items():
                # a sharded matrix is orthogonalised whole, by every process for itself
                directions = torch.stack(
                    [whole(self._direction(p, group["momentum"])) for p in members]
                )
                # 0.2 sqrt(longest side): the root mean square of a usual AdamW step.
                scale = 0.2 * math.sqrt(max(shape))
                for parameter, update in zip(members, orthogonalise(directions), strict=True):
                    part = local(parameter)
                    part.mul_(1 - group["lr"] * group["weight_decay"])
                    part.add_(_part_of(update, parameter), alpha=-group["lr"] * scale)

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Advance the momentum of one matrix and look ahead along it."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"]
        average.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)


def _part_of(update: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return what of a whole update belongs to this process's part of a parameter."""
    update = update.to(parameter.dtype)
    if not isinstance(parameter, DTensor):
        return update
    return distribute_tensor(
        update, parameter.device_mesh, parameter.placements, src_data_rank=None
    ).to_local()


def orthogonalise(matrices_GMN: Tensor) -> Tensor:
    """Return the nearest half-orthogonal matrices, roughly, in bfloat16.

    Newton-Schulz with coefficients that push every singular value into about [0.7, 1.2].
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices_GMN.bfloat16()
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x


def lr_factor(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step as a part of its peak."""
    warmup = min(config.warmup_steps, config.num_steps // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    low = config.min_lr_ratio
    if config.schedule == "exponential":
        return max(low, config.decay_rate ** (step - warmup))
    if config.schedule == "cosine":
        done = (step - warmup) / max(1, config.num_steps - warmup)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    left = (config.num_steps - step) / max(1.0, config.decay_fraction * config.num_steps)
    return low + (1 - low) * min(1.0, max(0.0, left))
