"""Schedules, groups, Muon and the average of the weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from khala.errors import ConfigError
from khala.train import Task, TrainConfig
from khala.train.ema import WeightAverage
from khala.train.optim import Optimiser, lr_factor, orthogonalise

Make = Callable[..., Task]
CONFIG = TrainConfig(num_steps=100, lr=0.1, warmup_steps=10, min_lr_ratio=0.1)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_schedule_rises_holds_and_ends_low(schedule: str) -> None:
    """A learning rate that jumps ruins a run; one that does not end low leaves quality behind."""
    config = replace(CONFIG, schedule=schedule)
    factors = [lr_factor(step, config) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 11)
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] < 0.15
    assert all(abs(a - b) < 0.1 for a, b in itertools.pairwise(factors))
    if schedule == "wsd":
        assert factors[10:75] == [1.0] * 65
    assert lr_factor(0, replace(config, num_steps=1)) > 0


def test_an_exponential_schedule_loses_the_same_part_at_every_step() -> None:
    """Published codecs train for millions of steps, whose number is not known when they begin."""
    config = replace(CONFIG, schedule="exponential", decay_rate=0.98)
    factors = [lr_factor(step, config) for step in range(200)]
    assert factors[:11] == [*(pytest.approx((step + 1) / 11) for step in range(10)), 1.0]
    for before, after in itertools.pairwise(factors[10:100]):
        assert after == pytest.approx(0.98 * before)
    assert factors[-1] == min(factors[10:]) == config.min_lr_ratio
    longer = replace(config, num_steps=10_000)
    assert [lr_factor(step, longer) for step in range(200)] == factors
    for rate in (0.0, 1.1):
        with pytest.raises(ConfigError, match="decay_rate"):
            replace(config, decay_rate=rate)


def test_only_matrices_decay(line: Make) -> None:
    """Decaying norms and biases pulls a model towards silence."""
    task = line()
    for name in ("adamw", "muon"):
        optimiser = Optimiser(task, replace(CONFIG, optimiser=name))
        for inner in optimiser.inner:
            for group in inner.param_groups:
                for parameter in group["params"]:
                    assert (group["weight_decay"] > 0) == (parameter.ndim == 2)
        members = [p for i in optimiser.inner for g in i.param_groups for p in g["params"]]
        assert len(members) == len(list(task.model.parameters()))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8)])
def test_orthogonalise_evens_out_singular_values(shape: tuple[int, int, int]) -> None:
    """Muon's whole effect is that no direction of a matrix drowns the others."""
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=generator)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    stretched = u @ torch.diag_embed(s * torch.linspace(1, 30, s.shape[1])) @ v
    values = torch.linalg.svdvals(orthogonalise(stretched).float())
    assert values.max() < 1.35
    assert values.median() > 0.6


def test_the_average_equals_a_slow_one() -> None:
    """What is exported is the average: a wrong one would be another model than was validated."""
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.9)
    slow = model.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.add_(0.1 * step)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        slow = decay * slow + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.tensors["weight"], slow)
    kept = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), slow)
    assert torch.equal(model.weight, kept)
