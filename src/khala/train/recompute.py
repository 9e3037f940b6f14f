"""Activation checkpointing: a layer's insides are computed twice, and kept never."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["recompute_layers"]


def recompute_layers(model: nn.Module) -> None:
    """Let every transformer layer keep nothing but its input while gradients are wanted.

    Layers are found in lists called "layers". Names of parameters stay as they are.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "layers" and isinstance(module, nn.ModuleList):
            for layer in module:
                layer.forward = partial(_twice, layer.forward)


def _twice(forward: Any, *inputs: Any) -> Any:
    """Call a layer, now and once more when its gradient is wanted."""
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False)
