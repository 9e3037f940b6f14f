"""How far a set of songs is from another set, in the space of an embedding.

Shape letters: N, M embeddings of two sets, D width, S sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from khala.errors import ConfigError

__all__ = ["Distance", "frechet", "frechet_distance", "kernel_distance", "squared_mmd"]

Floats = npt.NDArray[np.float64]

FEWEST = 16
NUM_SIZES = 8
NUM_RESAMPLES = 200
INTERVAL = (0.025, 0.975)
SCALES = (0.25, 0.5, 1.0, 2.0)
"""A wide kernel sees where a set lies, a narrow one what it is made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """A distance between two sets, with the interval that resampling their members gives."""

    value: float
    """The estimate, freed of its bias; noise can make it negative."""

    low: float
    """Lower end of the 95 % interval."""

    high: float
    """Upper end."""

    biased: float
    """What the plain formula gives for these set sizes: it falls as sets grow."""


def frechet(one_ND: Floats, other_MD: Floats) -> float:
    """Return the Frechet distance of two normal distributions with these means and covariances.

    |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)); https://arxiv.org/abs/1812.08466 for sound.
    """
    gap_D = one_ND.mean(axis=0) - other_MD.mean(axis=0)
    first_DD, second_DD = (np.cov(each, rowvar=False) for each in (one_ND, other_MD))
    # tr (C C')^(1/2) by the symmetric root of C: real, and defined for singular ones.
    values, vectors = np.linalg.eigh(np.atleast_2d(first_DD))
    root_DD = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root_DD @ np.atleast_2d(second_DD) @ root_DD)
    cross = 2 * float(np.sqrt(np.maximum(inner, 0)).sum())
    return float(gap_D @ gap_D + np.trace(np.atleast_2d(first_DD + second_DD)) - cross)


def frechet_distance(one_ND: Floats, other_MD: Floats, *, seed: int = 0) -> Distance:
    """Return the Frechet distance of two sets as their sizes grow without end.

    The plain distance of small sets is too large by about c / N: it is measured on subsets of
    `NUM_SIZES` sizes and the line through them read off at 1 / N = 0
    (https://arxiv.org/abs/2311.01616). The interval is that of the same line through halves.

    Args:
        one_ND, other_MD: embeddings, one row a song; more rows than `FEWEST`.
        seed: of the subsets.

    Raises:
        ConfigError: too few songs, or widths that differ.
    """
    one_ND, other_MD = _checked(one_ND, other_MD)
    generator = np.random.default_rng(seed)
    whole = _limits(one_ND, other_MD, min(len(one_ND), len(other_MD)), generator)
    halves = _limits(one_ND, other_MD, min(len(one_ND), len(other_MD)) // 2, generator)
    low, high = np.quantile(halves - halves.mean(), INTERVAL)
    value = float(whole.mean())
    return Distance(
        value=value,
        low=value + float(low),
        high=value + float(high),
        biased=frechet(one_ND, other_MD),
    )


def _limits(one_ND: Floats, other_MD: Floats, most: int, generator: np.random.Generator) -> Floats:
    """Return Frechet distances at 1 / N = 0, each through random subsets of up to ``most``."""
    sizes_S = np.unique(np.linspace(max(4, most // 3), most, NUM_SIZES).astype(int))
    found = [
        [
            frechet(
                one_ND[generator.permutation(len(one_ND))[:count]],
                other_MD[generator.permutation(len(other_MD))[:count]],
            )
            for count in sizes_S
        ]
        for _ in range(NUM_RESAMPLES)
    ]
    return np.array([np.polyfit(1.0 / sizes_S, distances, 1)[1] for distances in found])


def squared_mmd(one_ND: Floats, other_MD: Floats, width: float, *, unbiased: bool = True) -> float:
    """Return the squared maximum mean discrepancy under the mean of four Gaussian kernels.

    Unbiased it is 0 in the mean for two sets of one distribution, whatever their sizes, and it
    does not assume normal distributions (https://jmlr.org/papers/v13/gretton12a.html; for music,
    https://arxiv.org/abs/2502.15602).
    """
    within = 0.0
    for each in (one_ND, other_MD):
        kernel = _kernel(each, each, width)
        num = len(each)
        own = (kernel.sum() - num) / (num * (num - 1)) if unbiased else kernel.mean()
        within += float(own)
    return within - 2 * float(_kernel(one_ND, other_MD, width).mean())


def _kernel(one_ND: Floats, other_MD: Floats, width: float) -> Floats:
    apart = (one_ND**2).sum(1)[:, None] + (other_MD**2).sum(1) - 2 * one_ND @ other_MD.T
    apart = np.maximum(apart, 0)
    kernel: Floats = np.mean(
        [np.exp(-apart / (2 * (scale * width) ** 2)) for scale in SCALES], axis=0
    )
    return kernel


def kernel_distance(one_ND: Floats, other_MD: Floats, *, seed: int = 0) -> Distance:
    """Return the squared MMD of two sets, its kernels about as wide as the first's median distance.

    The interval is that of halves drawn without replacement: given the whole, a half varies as
    much as the whole does given the world, and drawn with replacement doubles look like likeness.

    Args:
        one_ND: the reference's embeddings.
        other_MD: the others.
        seed: of the halves.

    Raises:
        ConfigError: too few songs, or widths that differ.
    """
    one_ND, other_MD = _checked(one_ND, other_MD)
    generator = np.random.default_rng(seed)
    some_ND = one_ND[generator.permutation(len(one_ND))[:500]]
    apart = np.linalg.norm(some_ND[:, None] - some_ND[None], axis=2)
    width = float(np.median(apart[np.triu_indices(len(some_ND), 1)]))
    if width <= 0:
        raise ConfigError("more than half of the reference's embeddings are the same")
    value = squared_mmd(one_ND, other_MD, width)
    halves = np.array(
        [
            squared_mmd(
                one_ND[generator.permutation(len(one_ND))[: len(one_ND) // 2]],
                other_MD[generator.permutation(len(other_MD))[: len(other_MD) // 2]],
                width,
            )
            for _ in range(NUM_RESAMPLES)
        ]
    )
    low, high = np.quantile(halves - halves.mean(), INTERVAL)
    return Distance(
        value=value,
        low=value + float(low),
        high=value + float(high),
        biased=squared_mmd(one_ND, other_MD, width, unbiased=False),
    )


def _checked(one_ND: npt.ArrayLike, other_MD: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return both sets as float64, or say why they cannot be compared."""
    one, other = np.asarray(one_ND, dtype=np.float64), np.asarray(other_MD, dtype=np.float64)
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ConfigError(f"embeddings of shapes {one.shape} and {other.shape} do not compare")
    if min(len(one), len(other)) < FEWEST:
        raise ConfigError(
            f"a distance between sets needs {FEWEST} songs in each, not {len(one)} and {len(other)}"
        )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ConfigError("embeddings hold values that are not finite")
    return one, other
