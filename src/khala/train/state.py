"""How a run is configured, and what it knows while it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from khala.errors import ConfigError
from khala.train.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from khala.train.ema import WeightAverage
    from khala.train.optim import Optimiser
    from khala.train.task import Task

__all__ = ["TrainConfig", "TrainState"]

SCHEDULES = ("cosine", "wsd", "exponential")
OPTIMISERS = ("adamw", "muon")
PRECISIONS = ("auto", "float32", "bfloat16")
SHARDINGS = ("none", "layers")
POLICIES = ("stop", "skip")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The part of a run that does not depend on what is trained."""

    num_steps: int
    """Updates of the weights from start to end; the schedule is laid over them."""

    lr: float
    """Peak learning rate."""

    seed: int = 0
    """Of the first weights, the order of examples and every choice made about them."""

    num_parts: int = 1
    """Batches whose gradients are averaged into one update."""

    optimiser: str = "adamw"
    """"adamw", or "muon": orthogonalised updates for matrices, AdamW for the rest."""

    schedule: str = "cosine"
    """"cosine"; "wsd": warm-up, stable, linear decay over the last ``decay_fraction``; or
    "exponential": a factor of ``decay_rate`` at every step after the warm-up."""

    warmup_steps: int = 100
    """Steps of linear rise to ``lr``; at most half of the run is used."""

    decay_fraction: float = 0.25
    """Part of the run over which "wsd" decays."""

    decay_rate: float = 0.999996
    """Of "exponential": at this one, half of the learning rate is left after 173,000 steps."""

    min_lr_ratio: float = 0.05
    """The learning rate ends at this times ``lr``; "exponential" never falls below."""

    weight_decay: float = 0.1
    """Decoupled, on matrices only."""

    beta1: float = 0.9
    """AdamW's, and Muon's momentum is ``momentum``."""

    beta2: float = 0.95
    """AdamW's."""

    momentum: float = 0.95
    """Muon's."""

    clip_norm: float = 1.0
    """Longest gradient allowed."""

    ema_decay: float = 0.999
    """Of the averaged weights used for validation and export; 0 exports the last weights."""

    precision: str = "auto"
    """"float32", "bfloat16" (autocast), or "auto": bfloat16 where the hardware computes it."""

    compile: bool = False
    """Use torch.compile."""

    sharding: str = "none"
    """With several processes: "none", each has the whole model, or "layers" (FSDP2): each holds a
    part of every transformer layer, its moments and its average."""

    recompute: bool = False
    """Keep only the input of each transformer layer and compute the rest again going back: less
    memory, about a third more work."""

    on_nonfinite: str = "stop"
    """When a loss or gradient is not finite: "stop" the run, or "skip" the step, at most
    ``max_skipped`` in a row. The weights never move for such a number."""

    max_skipped: int = 10
    """Steps in a row that may be skipped before the run stops all the same."""

    checkpoint_every_s: float = 300.0
    """Seconds between checkpoints."""

    keep_checkpoints: int = 2
    """Newest checkpoints kept on disk."""

    validate_every: int = 500
    """Steps between validations; one always follows the last step. 0: only that one."""

    log_every: int = 20
    """Steps between lines of the log."""

    tensorboard: bool = False
    """Write the log and the samples for TensorBoard too, into RUN/board (extra [train])."""

    max_seconds: float | None = None
    """Stop with a checkpoint after this time; None never stops. Started again, it goes on."""

    def __post_init__(self) -> None:
        counts = ("num_steps", "num_parts", "keep_checkpoints", "log_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("warmup_steps", "validate_every", "seed", "max_skipped"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("lr", "clip_norm", "checkpoint_every_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("beta1", "beta2", "momentum", "ema_decay", "min_lr_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        for name in ("decay_fraction", "decay_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in (0, 1], not {getattr(self, name)}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ConfigError(f"max_seconds must be positive or None, not {self.max_seconds}")
        choices = (
            ("schedule", SCHEDULES),
            ("optimiser", OPTIMISERS),
            ("precision", PRECISIONS),
            ("sharding", SHARDINGS),
            ("on_nonfinite", POLICIES),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}"
                )

    def check_ranks(self, num_ranks: int) -> None:
        """Refuse a number of processes that the parts of a step cannot be dealt out to.

        Raises:
            ConfigError: it does not divide ``num_parts``.
        """
        Ranks(0, num_ranks).own_parts(self.num_parts)


@dataclass(kw_only=True)
class TrainState:
    """Where a run is. The loop owns it; hooks read it and may set ``stopped``."""

    task: Task
    """What is trained, holding the model."""

    config: TrainConfig
    """As resolved before step 0."""

    optimiser: Optimiser
    """Moments of every parameter."""

    average: WeightAverage
    """Averaged weights."""

    device: torch.device
    """Where the model is."""

    folder: Path
    """The run's own folder."""

    ranks: Ranks = ALONE
    """The processes of the run."""

    step: int = 0
    """Updates made so far."""

    num_items: int = 0
    """Tokens, positions or frames seen so far."""

    seconds: float = 0.0
    """Time spent in the loop, over all starts."""

    stopped: str | None = None
    """Why the loop ended before ``num_steps``: "time" or "signal"."""

    grad_norm: float = 0.0
    """Of the last update, before clipping."""

    flops: float = 0.0
    """Arithmetic of the parts that this process did since the run began here."""

    last_step_items: int = field(default=0)
    """Items of the last step, over all processes."""

    num_skipped: int = 0
    """Steps skipped in a row, up to now."""
