"""Addressed randomness: the draws a song is made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from khala.errors import RequestError, StageError
from khala.nn.sampling import sample_top_k, top_candidates, uniform


def draw(logits_TV: Tensor, frames_T: Tensor | None = None, **changes: object) -> Tensor:
    """Sample with the values of these tests unless told otherwise."""
    settings: dict[str, object] = {
        "top_k": 10,
        "temperature": 1.0,
        "seed": 7,
        "stage": "superres",
        "level": 3,
        **changes,
    }
    frames_T = torch.arange(logits_TV.shape[0]) if frames_T is None else frames_T
    return sample_top_k(logits_TV, frames_T=frames_T, **settings)  # type: ignore[arg-type]


PINNED = [[1610919141, 1701265944, 755001754], [3307526211, 588608552, 2964556653]]
"""The hash of seed 1234567890123, "backbone", level 1, frames 0 and 99, candidates 0 to 2."""


def test_hash_is_pinned() -> None:
    """Songs store seeds, not draws: another hash would make every saved song another song."""
    values = (uniform(1234567890123, "backbone", 1, torch.tensor([0, 99]), 3) * 2**32 - 0.5).long()
    assert values.tolist() == PINNED


def test_uniform_is_strictly_inside_and_even() -> None:
    """A 0 or a 1 would become an infinite score and a click; a lean would favour some codes."""
    u_TV = uniform(0, "superres", 2, torch.arange(400), 1024)
    assert float(u_TV.min()) > 0.0
    assert float(u_TV.max()) < 1.0
    assert u_TV.dtype == torch.float64
    counts = torch.histc(u_TV.float(), bins=64, min=0.0, max=1.0).double()
    expected = u_TV.numel() / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 110.0  # chi2(63), p ~ 2e-4
    centred = u_TV - 0.5
    for other in (centred.roll(1, 0), centred.roll(1, 1)):
        assert abs(float((centred * other).mean()) * 12) < 0.01


def test_every_part_of_the_address_matters() -> None:
    """Two levels or frames with the same draws would repeat each other's accidents audibly."""
    frames = torch.arange(64)
    base = uniform(5, "backbone", 0, frames, 16)
    for other in (
        uniform(6, "backbone", 0, frames, 16),
        uniform(5 + (1 << 40), "backbone", 0, frames, 16),
        uniform(5, "superres", 0, frames, 16),
        uniform(5, "backbone", 1, frames, 16),
        uniform(5, "backbone", 0, frames + 64, 16),
    ):
        assert not bool((base == other).any())
        correlation = float(((base - 0.5) * (other - 0.5)).mean()) * 12
        assert abs(correlation) < 0.15
    assert base.unique().numel() == base.numel()


def test_draws_depend_on_nothing_but_their_address() -> None:
    """The same song alone, in a batch, in chunks, with more candidates, or asked for twice."""
    frames = torch.arange(50)
    whole = uniform(3, "superres", 9, frames, 32)
    assert torch.equal(whole, uniform(3, "superres", 9, frames, 32))
    assert torch.equal(whole[20:], uniform(3, "superres", 9, frames[20:], 32))
    assert torch.equal(whole, uniform(3, "superres", 9, frames, 100)[:, :32])
    assert torch.equal(whole[7:8], uniform(3, "superres", 9, 7, 32))
    logits_TV = torch.randn(50, 200, generator=torch.Generator().manual_seed(0))
    together = draw(logits_TV)
    pieces = [draw(logits_TV[a:b], frames[a:b]) for a, b in ((0, 1), (1, 30), (30, 50))]
    assert torch.equal(together, torch.cat(pieces))
    backwards = draw(logits_TV.flip(0), frames.flip(0)).flip(0)
    assert torch.equal(together, backwards)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_samples_the_softmax_of_what_is_kept(temperature: float) -> None:
    """Any other distribution than the model's makes music the model did not mean."""
    generator = torch.Generator().manual_seed(1)
    logits_V = torch.randn(30, generator=generator) * 1.5
    num = 40_000
    chosen = draw(logits_V.expand(num, -1), temperature=temperature)
    kept = logits_V.topk(10).indices
    counts = chosen.bincount(minlength=30).double()
    assert int(counts.sum()) == int(counts[kept].sum()), "nothing outside the kept is ever drawn"
    expected = (logits_V[kept].double() / temperature).softmax(dim=0) * num
    chi2 = float(((counts[kept] - expected) ** 2 / expected).sum())
    assert chi2 < 30.0  # chi2 with 9 degrees, p ~ 4e-4; the draws are fixed


def test_exactly_k_are_kept_and_ties_go_to_the_lower() -> None:
    """In bfloat16 ties are common: keeping all of them would widen the choice unpredictably."""
    logits_TV = torch.zeros(3, 40)
    logits_TV[1, 30:] = 1.0
    logits_TV[2] = torch.arange(40)
    kept = top_candidates(logits_TV, 5)
    assert kept.tolist() == [[0, 1, 2, 3, 4], [30, 31, 32, 33, 34], [35, 36, 37, 38, 39]]
    reference = torch.randn(200, 64, generator=torch.Generator().manual_seed(2)).bfloat16()
    slow = [
        sorted(sorted(range(64), key=lambda v, row=row: (-float(row[v]), v))[:9])
        for row in reference
    ]
    assert top_candidates(reference, 9).tolist() == slow


def test_one_candidate_or_no_temperature_is_the_best() -> None:
    """Asking for the most likely song must not leave anything to chance."""
    logits_TV = torch.randn(20, 50, generator=torch.Generator().manual_seed(3))
    best = logits_TV.argmax(dim=1)
    assert torch.equal(draw(logits_TV, top_k=1), best)
    assert torch.equal(draw(logits_TV, temperature=0.0), best)
    assert draw(logits_TV, top_k=500).max() < 50


def test_bad_numbers_are_refused() -> None:
    """A model that has become NaN must say so instead of writing code 0 for three minutes."""
    logits_TV = torch.zeros(2, 8)
    for changes in ({"top_k": 0}, {"temperature": -1.0}, {"temperature": float("nan")}):
        with pytest.raises(RequestError):
            draw(logits_TV, **changes)
    with pytest.raises(RequestError):
        draw(logits_TV, seed=-1)
    logits_TV[1, 3] = float("nan")
    with pytest.raises(StageError, match="superres"):
        draw(logits_TV, top_k=2)


def test_ties_with_the_last_one_kept() -> None:
    """The published sampler keeps them all: in bfloat16 that is often more than ``top_k``."""
    logits_TV = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0, -1.0]]).repeat(
        2_000, 1
    )
    frames_T = torch.arange(len(logits_TV))
    kept = {}
    for keep_ties in (False, True):
        choice_T = sample_top_k(
            logits_TV,
            top_k=2,
            temperature=1.0,
            seed=1,
            stage="backbone",
            level=0,
            frames_T=frames_T,
            keep_ties=keep_ties,
        )
        kept[keep_ties] = choice_T
        assert set(choice_T[1::2].tolist()) == {0, 1}
    assert set(kept[False][0::2].tolist()) == {0, 1}
    counts = torch.bincount(kept[True][0::2], minlength=5).double() / 2_000
    wanted = torch.tensor([2.0, 1.0, 1.0, 1.0]).double().softmax(dim=0)
    torch.testing.assert_close(counts[:4], wanted, atol=0.04, rtol=0)
    assert counts[4] == 0
    assert torch.equal(kept[True][1::2], kept[False][1::2])
