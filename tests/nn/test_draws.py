"""Draws in machine code, against those of the library's operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from khala.nn import sampling
from khala.nn.sampling import gumbel, kept_mask, most_likely, sample_top_k


def sample(logits_TV: torch.Tensor, top_k: int, temperature: float, first: int = 0) -> list[int]:
    return sample_top_k(
        logits_TV,
        top_k=top_k,
        temperature=temperature,
        seed=2**63 + 5,
        stage="superres",
        level=7,
        frames_T=torch.arange(first, first + len(logits_TV)),
    ).tolist()


@pytest.mark.parametrize("temperature", [1e-12, 0.002, 0.9, 5.0, 300.0])
@pytest.mark.parametrize(("num", "top_k"), [(1024, 400), (1024, 1024), (37, 12), (5, 2)])
def test_the_same_candidates(
    monkeypatch: pytest.MonkeyPatch, num: int, top_k: int, temperature: float
) -> None:
    """A song must not hang on whether numba is installed; ties and huge scores included."""
    logits_TV = torch.randn(300, num, generator=torch.Generator().manual_seed(num)) * 3
    logits_TV[100:200] = logits_TV[100:200].round()
    logits_TV[200:] *= 1e4
    compiled = sample(logits_TV, top_k, temperature, first=10_000)
    monkeypatch.setattr(sampling, "has_compiler", lambda: False)
    assert sample(logits_TV, top_k, temperature, first=10_000) == compiled


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_cores(threads: int) -> None:
    """Pieces of rows are put together in their order."""
    logits_TV = torch.randn(700, 64, generator=torch.Generator().manual_seed(0))
    noise_TV = gumbel(2**63 + 5, "superres", 7, torch.arange(700), 64)
    wanted = most_likely(logits_TV, kept_mask(logits_TV, 20), noise_TV, 1.5).tolist()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert sample(logits_TV, 20, 1.5) == wanted
    finally:
        torch.set_num_threads(before)


def test_quick_scores_are_near() -> None:
    """What is doubted must be more than what quick scores are wrong by, at both ends of u too."""
    from khala.nn.draws import DOUBT, _waiting
    from khala.nn.jit import log

    ends = np.arange(3000, dtype=np.uint32)
    middle = np.random.default_rng(0).integers(0, 2**32, 3000, dtype=np.uint64).astype(np.uint32)
    for word in (*ends, *middle, *(np.uint32(2**32 - 1) - ends)):
        exact = -np.log((float(word) + 0.5) * 2.0**-32)
        assert abs(float(_waiting(word)) / exact - 1.0) < 1e-6
        assert abs(float(log(_waiting(word))) - np.log(exact)) < DOUBT / 30


def test_logarithms() -> None:
    """From the least normal number to large ones."""
    from khala.nn.jit import log

    for x in np.exp(np.linspace(-87, 80, 4001)).astype(np.float32):
        exact = np.log(np.float64(x))
        assert abs(float(log(x)) - exact) < 1e-6 * max(1.0, abs(exact))
