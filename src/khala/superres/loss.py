"""Super-resolution's objectives: Task 1, and the Task 0 that keeps the words (arXiv 2605.01790).

Task 1, two-sided: for a target level N, prompt and the sum of levels below N -> level N at every
frame, unshifted. Task 0, causal: prompt and level 0 so far -> level 0 of the next frame. Both mark
their level at the prompt's last position. The paper mixes them; without Task 0 word errors stay
several times higher at the same step.

Shape letters: B batch, P prompt positions, T frames, Q levels, D width, V codes of one level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from khala.superres.model import SuperResolution
from khala.superres.packing import Packing


def task_1_losses(
    model: SuperResolution,
    prompt_BP: Tensor,
    codes_BQT: Tensor,
    target_levels: Sequence[int],
    *,
    packing: Packing,
) -> dict[str, Tensor]:
    """Return the mean cross-entropy, in nats, of each song's target level at all its frames.

    Args:
        prompt_BP: prompts padded on the right.
        codes_BQT: codes padded on the right, levels 0 .. at least the highest target; codes under
            the padding must be codes, but are not looked at.
        target_levels: one level per song, 1 <= level < Q. Songs may differ; a batch with one
            level for all is faster.
        packing: the true lengths.

    Returns:
        "loss" (mean over all real frames) and "accuracy" (share of frames whose best code is
        right, detached).
    """
    frames_BTD = model.embed_levels(codes_BQT, target_levels)
    hidden_BSD = model.level_hidden(prompt_BP, frames_BTD, target_levels, packing=packing)
    hidden_BTD = packing.frames_of(hidden_BSD)
    if len(set(target_levels)) == 1:
        logits_BTV = model.level_logits(hidden_BTD, target_levels[0])
    else:
        each = [model.level_logits(hidden_BTD[b], n) for b, n in enumerate(target_levels)]
        logits_BTV = torch.stack(each)
    items = torch.arange(codes_BQT.shape[0], device=codes_BQT.device)
    targets_BT = codes_BQT[items, torch.tensor(list(target_levels), device=items.device)]
    return _frame_losses(logits_BTV, targets_BT, packing)


def task_0_losses(
    model: SuperResolution, prompt_BP: Tensor, codes_BQT: Tensor, *, packing: Packing
) -> dict[str, Tensor]:
    """Return the mean cross-entropy, in nats, of level 0 given the prompt and the frames before.

    The causal mask never lets a frame see itself or what follows; the marker is level 0's. The
    first frame is predicted from the marker, frame t from frame t - 1. Arguments and results are
    those of ``task_1_losses``.
    """
    targets_BT = codes_BQT[:, 0]
    frames_BTD = model.embed_levels(codes_BQT, 1)
    levels = [0] * codes_BQT.shape[0]
    hidden_BSD = model.level_hidden(prompt_BP, frames_BTD, levels, packing=packing, causal=True)
    logits_BTV = model.level_logits(packing.frames_of(hidden_BSD, shift=-1), 0)
    return _frame_losses(logits_BTV, targets_BT, packing)


def _frame_losses(logits_BTV: Tensor, targets_BT: Tensor, packing: Packing) -> dict[str, Tensor]:
    """Average over real frames only."""
    losses_BT = F.cross_entropy(
        logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none"
    ).view_as(targets_BT)
    weights_BT = packing.frame_mask().to(losses_BT.dtype)
    total = weights_BT.sum().clamp_min(1.0)
    right_BT = (logits_BTV.detach().argmax(dim=-1) == targets_BT).to(losses_BT.dtype)
    return {
        "loss": (losses_BT * weights_BT).sum() / total,
        "accuracy": (right_BT * weights_BT).sum() / total,
    }
