"""Scores in pieces."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from khala.nn.cross_entropy import linear_cross_entropy


def test_pieces_equal_the_whole_with_their_gradients() -> None:
    """A loss that fits the memory and is another loss would train another model."""
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(23, 8, generator=generator, requires_grad=True)
    weight_VD = torch.randn(50, 8, generator=generator, requires_grad=True)
    targets_N = torch.randint(0, 50, (23,), generator=generator)
    share_N = torch.rand(23, generator=generator)
    wanted_N = F.cross_entropy(hidden_ND @ weight_VD.T, targets_N, reduction="none")
    wanted = torch.autograd.grad((wanted_N * share_N).sum(), [hidden_ND, weight_VD])
    for max_scores in (10, 50 * 7, 10_000):
        losses_N = linear_cross_entropy(hidden_ND, weight_VD, targets_N, max_scores=max_scores)
        torch.testing.assert_close(losses_N, wanted_N)
        found = torch.autograd.grad((losses_N * share_N).sum(), [hidden_ND, weight_VD])
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs)
    assert linear_cross_entropy(hidden_ND[:0], weight_VD, targets_N[:0]).shape == (0,)


def test_only_one_piece_of_scores_is_kept() -> None:
    """All of them at once is what a small GPU dies of."""
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    hidden_ND = torch.randn(64, 4, requires_grad=True)
    weight_VD = torch.randn(100, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        linear_cross_entropy(hidden_ND, weight_VD, torch.zeros(64).long(), max_scores=800)
    assert max(kept) <= max(hidden_ND.numel(), weight_VD.numel())
