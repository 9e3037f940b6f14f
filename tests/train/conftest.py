"""A task small enough to train in milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from khala.corpus.order import draw
from khala.train import Batch, Task


class Line(Task):
    """Learns y = 2x - 1 with a matrix, a table and a bias; draws its points by address."""

    kind = "line"
    unit = "points"

    def __init__(self, poison_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
        self.poison_at = poison_at
        self.updates = torch.zeros(1)
        self.seen: list[tuple[int, int]] = []

    def batch(self, step: int, part: int) -> Batch:
        self.seen.append((step, part))
        generator = torch.Generator().manual_seed(draw(5, step, part) >> 2)
        x_BD = torch.rand(6, 4, generator=generator)
        if step == self.poison_at:
            x_BD[0, 0] = float("nan")
        return {"x_BD": x_BD}

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:  # noqa: ARG002
        error = self.model(batch["x_BD"]) - (2 * batch["x_BD"] - 1)
        return {"loss": error.square().mean(), "worst": error.abs().max()}

    def num_items(self, batch: Batch) -> int:
        return len(batch["x_BD"])

    def after_update(self, step: int) -> None:
        self.updates += step

    def extra_state(self) -> dict[str, Tensor]:
        return {"updates": self.updates}

    def load_extra_state(self, tensors: dict[str, Tensor]) -> None:
        self.updates = tensors["updates"]

    def validate(self, step: int) -> dict[str, float]:
        return {"loss": self.losses(self.batch(10**6, 0), step)["loss"].item()}

    def export(self, folder: Path) -> Path:
        return folder


@pytest.fixture
def line() -> type[Line]:
    """Give the task's class."""
    return Line
