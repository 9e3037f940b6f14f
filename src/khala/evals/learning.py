"""What every ear of this room learns with: disturbed spectra, and a schedule by the clock.

Shape letters, this file only: T mel frames, M mel bands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from khala.evals.distances import Wave
from khala.evals.report import OnMessage

__all__ = ["band_statistics", "disturb", "optimise"]

LONGEST_STEP_S = 10.0
"""A step counts as no longer than this: a computer that slept must not end the training."""

SAY_EVERY_S = 20.0


def optimise(
    model: nn.Module,
    loss_of_batch: Callable[[], Tensor],
    *,
    minutes: float,
    max_steps: int,
    peak_rate: float,
    on_message: OnMessage,
) -> None:
    """Train with AdamW, its rate falling to zero as a cosine over ``minutes`` of wall clock.

    Args:
        model: left in training mode.
        loss_of_batch: draws a batch and returns its loss.
        minutes: wall clock of the loop; one slow step counts as `LONGEST_STEP_S` at most.
        max_steps: an end by steps.
        peak_rate: learning rate after a hundred steps of warm-up.
        on_message: takes a line every `SAY_EVERY_S` seconds.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=0.02)
    model.train()
    before = last_said = time.monotonic()
    step, spent_s, done, smoothed = 0, 0.0, 0.0, float("nan")
    while done < 1.0 and step < max_steps:
        warm = min(1.0, (step + 1) / 100)
        for group in optimiser.param_groups:
            group["lr"] = peak_rate * warm * 0.5 * (1 + np.cos(np.pi * done)) + 1e-6
        loss = loss_of_batch()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        optimiser.step()
        step += 1
        value, now = loss.item(), time.monotonic()
        spent_s += min(now - before, LONGEST_STEP_S)
        before, done = now, spent_s / (60 * minutes)
        smoothed = value if step == 1 else 0.95 * smoothed + 0.05 * value
        if now - last_said > SAY_EVERY_S:
            on_message(f"step {step}, {100 * done:.0f} % of the time, loss {smoothed:.3f}")
            last_said = now
    on_message(f"{step} steps in {spent_s:.0f} s, loss {smoothed:.3f}")


def band_statistics(features: Sequence[npt.NDArray[np.float16]]) -> tuple[Tensor, Tensor]:
    """Return mean [M] and deviation [M] of every band over at most fifty songs' features [T, M]."""
    some = np.concatenate([one_TM[::4].astype(np.float32) for one_TM in features[:50]])
    mean_M, deviation_M = torch.from_numpy(some.mean(axis=0)), torch.from_numpy(some.std(axis=0))
    return mean_M, deviation_M.clamp_min(0.1)


def disturb(features_TM: Wave, generator: np.random.Generator) -> Wave:
    """Change gain and tilt, raise the noise floor, mask bands and moments (arXiv 1904.08779)."""
    num_frames, num_mels = features_TM.shape
    tilt_M = np.linspace(-1, 1, num_mels, dtype=np.float32) * np.float32(generator.normal(0, 0.3))
    features_TM = features_TM + tilt_M + np.float32(generator.normal(0, 0.2))
    if generator.random() < 0.5:
        floor = np.quantile(features_TM, generator.uniform(0.0, 0.3))
        noise_TM = generator.normal(floor, 0.5, features_TM.shape).astype(np.float32)
        features_TM = np.maximum(features_TM, noise_TM)
    middle = np.float32(features_TM.mean())
    for _ in range(2):
        width, length = int(generator.integers(0, 12)), int(generator.integers(0, 16))
        low, first = int(generator.integers(num_mels)), int(generator.integers(num_frames))
        features_TM[:, low : low + width] = middle
        features_TM[first : first + length] = middle
    return features_TM
