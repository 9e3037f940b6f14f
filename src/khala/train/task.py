"""What the loop needs to know of a thing that is trained: one protocol, three tasks.

A batch is a pure function of (step, part): nothing about the data is remembered between steps, so
a resumed run and one never stopped see the same songs in the same order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Batch", "Task"]

Batch = dict[str, Any]

TABLES = ("embed", "lm_head", "codes.", "codebook", "lessons.")
"""Parts of names of parameters that are tables."""


class Task(Protocol):
    """A model, its data and its losses. Subclass it to get the defaults below."""

    kind: str
    """"codec", "backbone" or "superres": names the stage in errors and logs."""

    unit: str
    """What `num_items` counts, as in "tokens"."""

    model: nn.Module
    """What is optimised, averaged, checkpointed and exported; parameters that ask for no gradient
    are as they were in the model that the task started from, and stay out of all four."""

    product: str = "model"
    """What `export` writes, and the folder in the run's where: "model" or "adapter"."""

    def batch(self, step: int, part: int) -> Batch:
        """Return the tensors of one part of a step, on the CPU; called from another thread."""
        ...

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return scalars; the one called "loss" is minimised, the others are logged."""
        ...

    def num_items(self, batch: Batch) -> int:
        """Return how much a batch holds, for the speed."""
        ...

    def num_flops(self, batch: Batch) -> float:  # noqa: ARG002
        """Return the arithmetic of a part, forward and backward; 0: not known."""
        return 0.0

    def sample(self, step: int) -> Tensor | None:  # noqa: ARG002
        """Return wave_CN of what the model makes now; None: nothing can be heard yet."""
        return None

    def validate(self, step: int) -> dict[str, float]:
        """Measure the model (with its averaged weights in place) on songs it never trained on."""
        ...

    def export(self, folder: Path) -> Path:
        """Write what was trained into a folder; return where it can be loaded from."""
        ...

    def role(self, name: str, parameter: nn.Parameter) -> str:
        """Say how a parameter is optimised.

        "matrix" decays, and may be given to Muon; "table" (embeddings, heads, what lessons read
        with) and "gain" (norms, biases) do not decay.
        """
        if parameter.ndim < 2 or name.endswith("bias"):
            return "gain"
        is_table = any(word in name for word in TABLES)
        return "table" if is_table else "matrix"

    def clip(self) -> float:
        """Clip the gradients of what is trained beside the model; return their norm, 0.0: none.

        Every process asks, once a step, before anything is moved.
        """
        return 0.0

    def forget(self) -> None:
        """Drop what the parts of a step left behind: the step is skipped."""
        return

    def after_update(self, step: int) -> None:  # noqa: ARG002
        """Do what must follow a step of the optimiser, such as moving codebooks."""
        return

    def extra_state(self) -> dict[str, Tensor]:
        """Return tensors a checkpoint must keep beside the model and the optimiser."""
        return {}

    def load_extra_state(self, tensors: dict[str, Tensor]) -> None:  # noqa: ARG002
        """Take back what `extra_state` gave."""
        return

    def compile(self) -> None:
        """Compile what is worth compiling, in place."""
        self.model.compile()

    def to(self, device: torch.device) -> None:
        """Move everything the task owns to a device."""
        self.model.to(device)
