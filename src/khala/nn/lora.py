"""Low-rank adaptation (LoRA, https://arxiv.org/abs/2106.09685): a frozen matrix W learns W + s B A.

B and A have few columns and rows, so that a style is a file of a megabyte beside a model and not
another model. Which linears take part is said by the ends of their names, as in peft.

Shape letters: B batch, S stream positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from khala.errors import ConfigError

__all__ = ["LINEARS", "LoraConfig", "LoraLinear", "add_lora", "lora_shapes", "lora_tensors",
           "merge_lora", "weight_rows"]  # fmt: skip

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every linear of a layer of the trunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """How much a model may change, and where."""

    rank: int = 8
    """Directions that each matrix may change in."""

    alpha: float = 16.0
    """The change is multiplied by alpha / rank, so that a rank can be tried with the same rate."""

    dropout: float = 0.0
    """Part of the inputs of every change that is dropped while training."""

    targets: tuple[str, ...] = LINEARS
    """Which linears of every layer change."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank must be at least 1, not {self.rank}")
        if not 0.0 < self.alpha < math.inf:
            raise ConfigError(f"lora.alpha must be positive and finite, not {self.alpha}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"lora.dropout must lie in [0, 1), not {self.dropout}")
        known = set(self.targets) <= set(LINEARS)
        if not self.targets or not known or len(set(self.targets)) < len(self.targets):
            raise ConfigError(
                f"lora.targets must be some of {', '.join(LINEARS)}, each once, not "
                f"{', '.join(self.targets) or 'none'}"
            )

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank


class LoraLinear(nn.Linear):
    """A linear that keeps its weight and bias, and their names, and adds a change to be learned."""

    def __init__(self, linear: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        """Take over a linear's own parameters. The change starts at zero: B is zero, A normal."""
        has_bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, bias=has_bias, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale, self.dropout = config.scale, config.dropout
        down_RI = torch.empty(config.rank, linear.in_features)
        down_RI.normal_(0.0, linear.in_features**-0.5, generator=generator)
        self.lora_A = nn.Parameter(down_RI.to(linear.weight))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(linear.out_features, config.rank))

    def forward(self, input: Tensor) -> Tensor:
        """Return W x + b + s B A x."""
        kept = F.dropout(input, self.dropout, self.training) if self.dropout else input
        change = F.linear(F.linear(kept, self.lora_A), self.lora_B)
        return F.linear(input, self.weight, self.bias) + self.scale * change


def add_lora(model: nn.Module, config: LoraConfig, *, seed: int) -> None:
    """Freeze a model and let its target linears learn a change, in place.

    Raises:
        ConfigError: the rank is more than a target's matrix can have.
    """
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, linear in list(_targets(model, config)):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, LoraLinear(linear, config, generator))


def lora_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every change that a model learns, by the names of `lora_shapes`."""
    return {
        f"{name}.{part}": getattr(linear, part)
        for name, linear in model.named_modules()
        if isinstance(linear, LoraLinear)
        for part in ("lora_A", "lora_B")
    }


def lora_shapes(model: nn.Module, config: LoraConfig) -> dict[str, tuple[int, int]]:
    """Return the name and shape of every tensor that a change of a model is made of.

    Raises:
        ConfigError: the rank is more than a target's matrix can have.
    """
    shapes = {}
    for name, linear in _targets(model, config):
        shapes[f"{name}.lora_A"] = (config.rank, linear.in_features)
        shapes[f"{name}.lora_B"] = (linear.out_features, config.rank)
    return shapes


@torch.no_grad()
def merge_lora(
    model: nn.Module, tensors: Mapping[str, Tensor], config: LoraConfig, *, strength: float
) -> None:
    """Add ``strength`` times a change to the weights of a model, in place; 0 adds nothing at all.

    Args:
        model: without changes of its own.
        tensors: of every name of `lora_shapes`, with its shape.
        config: the change's.
        strength: 1 as it was trained.
    """
    for name, linear in _targets(model, config) if strength else ():
        up_OR, down_RI = tensors[f"{name}.lora_B"], tensors[f"{name}.lora_A"]
        change_OI = strength * config.scale * (up_OR.float() @ down_RI.float())
        linear.weight += change_OI.to(linear.weight)


def weight_rows(linear: nn.Linear, rows: slice) -> Tensor:
    """Return some rows of a linear's weight, with the change it learns if it learns one."""
    if isinstance(linear, LoraLinear):
        return linear.weight[rows] + linear.scale * (linear.lora_B[rows] @ linear.lora_A)
    return linear.weight[rows]


def _targets(model: nn.Module, config: LoraConfig) -> Iterator[tuple[str, nn.Linear]]:
    """Give the linears of a model that change, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in config.targets:
            most = min(module.in_features, module.out_features)
            if config.rank > most:
                raise ConfigError(f"lora.rank is {config.rank}: {name} can have at most {most}")
            yield name, module
