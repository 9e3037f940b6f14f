"""Randomness that is addressed, not drawn.

Each draw is a pure function of (seed, stage, level, frame, candidate) through an integer hash, so
a song is the same alone or in a batch, padded or not, in chunks or whole, resumed or never
stopped, and one frame or level can be made again. Gumbel-max over the kept candidates then
samples exactly their softmax (https://arxiv.org/abs/1611.01144, section 2).

The hash: (seed, stage, level) become a 64-bit key in Python integers; frame and candidate are
folded in by multiply-xorshift rounds on int32 tensors, whose products wrap modulo 2**32 on every
device. So every device gives the same integers.

Shape letters: T frames, V candidates (codes of one level, and what else may follow).
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from khala.errors import RequestError, StageError
from khala.machine import precise
from khala.nn.cores import has_compiler, on_cores

MASK_32 = 0xFFFFFFFF
MASK_64 = 0xFFFFFFFFFFFFFFFF
GOLDEN_32 = 0x9E3779B1
GOLDEN_64 = 0x9E3779B97F4A7C15
PIECE_ROWS = 128
"""Rows sampled at once on a CPU, so that what is computed of them stays in a core's cache."""

DENSE = 8
"""From one candidate kept in so many on, draws are made for all of them: cheaper than sorting."""

LEAST_COMPILED = 1e-3
"""Temperature from which on scores divided by it stay numbers in float32."""


def uniform(
    seed: int, stage: str, level: int, frames_T: Tensor | int, num_candidates: int
) -> Tensor:
    """Return u_TV, float64, strictly between 0 and 1: one number per frame and candidate.

    Args:
        seed: the song's seed, 0 <= seed < 2**64.
        stage: which model draws, "backbone" or "superres".
        level: the level that is sampled.
        frames_T: frame numbers counted from the song's start; one number gives one row.
        num_candidates: candidates are numbered from 0; more of them change none of the first.
    """
    frames_T = torch.as_tensor(frames_T).reshape(-1)
    candidates = torch.arange(num_candidates, device=frames_T.device)
    return _uniform_at(draw_key(seed, stage, level), frames_T, candidates[None, :])


def sample_top_k(
    logits_TV: Tensor,
    *,
    top_k: int,
    temperature: float,
    seed: int,
    stage: str,
    level: int,
    frames_T: Tensor,
    keep_ties: bool = False,
) -> Tensor:
    """Sample one candidate per row from the softmax of its ``top_k`` largest logits.

    Exactly ``top_k`` candidates are kept (fewer if there are fewer); of equal logits the lower
    candidate is kept. ``top_k=1`` or ``temperature=0`` is the largest logit. With ``keep_ties``
    every candidate that equals the last one kept is kept too, as the published sampler does.

    Returns:
        candidates_T, int64.

    Raises:
        RequestError: top_k < 1, or a temperature that is negative or not finite.
        StageError: a kept logit is not finite: the model's numbers are broken.
    """
    if top_k < 1:
        raise RequestError(f"top_k must be at least 1, not {top_k}")
    if not 0.0 <= temperature < float("inf"):
        raise RequestError(f"temperature must be 0 or more, not {temperature}")
    num_kept = min(top_k if temperature > 0.0 else 1, logits_TV.shape[1])
    if keep_ties and num_kept > 1:
        last_T1 = logits_TV.topk(num_kept, dim=1).values[:, -1:]
        num_kept = max(num_kept, int((logits_TV >= last_T1).sum(dim=1).max()))
    elif num_kept > max(1, logits_TV.shape[1] // DENSE):
        _check_finite(logits_TV.amax(dim=1), stage, level)
        key = draw_key(seed, stage, level)
        if logits_TV.device.type == "cpu":
            return _sample_on_cores(logits_TV, num_kept, key, frames_T, temperature)
        noise_TV = gumbel(seed, stage, level, frames_T, logits_TV.shape[1])
        return most_likely(logits_TV, kept_mask(logits_TV, num_kept), noise_TV, temperature)
    kept_TK = top_candidates(logits_TV, num_kept)
    kept_logits_TK = precise(logits_TV.gather(1, kept_TK))
    device = kept_logits_TK.device
    _check_finite(kept_logits_TK, stage, level)
    if num_kept == 1:
        return kept_TK[:, 0]
    if keep_ties:
        last_T1 = last_T1.to(device)
        kept_logits_TK = kept_logits_TK.masked_fill(kept_logits_TK < last_T1, -torch.inf)
    kept_TK = kept_TK.to(device)
    u_TK = _uniform_at(draw_key(seed, stage, level), frames_T.to(device), kept_TK)
    scores_TK = kept_logits_TK / temperature - (-u_TK.log()).log()
    # Candidates are in ascending order and argmax gives the first of equals: the lower one.
    chosen_T = kept_TK.gather(1, scores_TK.argmax(dim=1, keepdim=True))[:, 0]
    return chosen_T.to(logits_TV.device)


def _sample_on_cores(
    logits_TV: Tensor, k: int, key: tuple[int, int], frames_T: Tensor, temperature: float
) -> Tensor:
    """Sample a candidate per row from its ``k`` largest, piece by piece."""
    rows = torch.split(logits_TV.float(), PIECE_ROWS)
    frames = torch.split(frames_T.cpu(), PIECE_ROWS)
    is_compiled = has_compiler() and temperature >= LEAST_COMPILED

    def sample(piece: int) -> Tensor:
        """Return candidates_T of a piece."""
        is_kept_TV = kept_mask(rows[piece], k)
        if not is_compiled:
            candidates = torch.arange(logits_TV.shape[1])
            noise_TV = _as_gumbel(_uniform_at(key, frames[piece], candidates[None, :]))
            return most_likely(rows[piece], is_kept_TV, noise_TV, temperature)
        from khala.nn import draws

        words = np.uint32(key[0]), np.uint32(key[1])
        chosen_T = draws.most_likely(
            rows[piece].numpy(), is_kept_TV.numpy(), words, frames[piece].numpy(), temperature
        )
        return torch.from_numpy(chosen_T)

    pieces = range(len(rows))
    return torch.cat(on_cores(sample, len(rows)) if is_compiled else [*map(sample, pieces)])


def gumbel(
    seed: int, stage: str, level: int, frames_T: Tensor | int, num_candidates: int
) -> Tensor:
    """Return the draws of `uniform` as Gumbel noise_TV, float64, -log(-log(u))."""
    return _as_gumbel(uniform(seed, stage, level, frames_T, num_candidates))


def _as_gumbel(u_TV: Tensor) -> Tensor:
    return u_TV.log_().neg_().log_().neg_()


def most_likely(
    logits_TV: Tensor, is_kept_TV: Tensor, noise_TV: Tensor, temperature: float | Tensor
) -> Tensor:
    """Return candidates_T: the largest sum of logit / temperature and noise among those kept.

    With Gumbel noise that is a sample of their softmax.
    """
    scores_TV = precise(logits_TV).div(temperature).add_(noise_TV.to(_home(logits_TV)))
    # 0 for those kept, and for others what no score reaches: several times faster than a choice
    scores_TV.add_(is_kept_TV.to(scores_TV).sub_(1.0).mul_(1e300))
    return scores_TV.argmax(dim=1).to(logits_TV.device)


def kept_mask(logits_TV: Tensor, k: int) -> Tensor:
    """Return is_kept_TV: True at the ``k`` largest candidates of each row; ties to the lower."""
    num_candidates = logits_TV.shape[1]
    if k >= num_candidates:
        return torch.ones_like(logits_TV, dtype=torch.bool)
    if logits_TV.device.type != "cpu":
        last_T1 = logits_TV.topk(k, dim=1).values[:, -1:]
        return first_of_equals(logits_TV, last_T1, k)
    return torch.from_numpy(largest_mask(logits_TV.float().numpy(), k))


def largest_mask(values_TV: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.bool_]:
    """Return what `kept_mask` does, of an array."""
    num_candidates = values_TV.shape[1]
    if k >= num_candidates:
        return np.ones_like(values_TV, dtype=np.bool_)
    place = num_candidates - k
    last_T1 = np.partition(values_TV, place, axis=1)[:, place, None]
    is_kept_TV = values_TV >= last_T1
    if np.count_nonzero(is_kept_TV) == k * len(values_TV):
        return is_kept_TV
    return first_of_equals(torch.from_numpy(values_TV), torch.from_numpy(last_T1), k).numpy()


def first_of_equals(logits_TV: Tensor, last_T1: Tensor, k: int | Tensor) -> Tensor:
    """Return True at ``k`` candidates a row: all above the last one kept, and the first equals.

    Args:
        logits_TV: scores.
        last_T1: the smallest one kept of each row.
        k: of all rows, or k_T1.
    """
    above_TV, equal_TV = logits_TV > last_T1, logits_TV == last_T1
    room_T1 = k - above_TV.sum(dim=1, keepdim=True)
    return above_TV | (equal_TV & (equal_TV.cumsum(dim=1, dtype=torch.int32) <= room_T1))


def top_candidates(logits_TV: Tensor, k: int) -> Tensor:
    """Return the ``k`` largest candidates of each row, ascending; ties go to the lower one."""
    if k >= logits_TV.shape[1]:
        everyone = torch.arange(logits_TV.shape[1], device=logits_TV.device)
        return everyone.expand(logits_TV.shape[0], -1)
    top = logits_TV.topk(k + 1, dim=1)
    kept_TK = top.indices[:, :k]
    # topk breaks ties as it likes: redo the rows where the first one left out equals the last
    # one kept. Rare in float32, common in bfloat16.
    tied_T = top.values[:, k] == top.values[:, k - 1]
    if bool(tied_T.any()):
        order = logits_TV[tied_T].sort(dim=1, descending=True, stable=True).indices
        kept_TK = kept_TK.clone()
        kept_TK[tied_T] = order[:, :k]
    return kept_TK.sort(dim=1).values


def draw_key(seed: int, stage: str, level: int) -> tuple[int, int]:
    """Fold what is constant over a level into two 32-bit words."""
    if not 0 <= seed <= MASK_64:
        raise RequestError(f"a seed must lie in [0, 2**64), not {seed}")
    state = _mix_64(seed)
    for word in (zlib.crc32(stage.encode()), level):
        state = _mix_64((state ^ _mix_64((word + GOLDEN_64) & MASK_64)) & MASK_64)
    return state & MASK_32, state >> 32


def _mix_64(x: int) -> int:
    """Finalise 64 bits (the finaliser of splitmix64)."""
    x = (x + GOLDEN_64) & MASK_64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK_64
    return x ^ (x >> 31)


def gumbel_of(words_2T: Tensor, frames_T: Tensor, num_candidates: int) -> Tensor:
    """Return what `gumbel` does where every row has a seed of its own.

    Args:
        words_2T: int32, the words of each row's `draw_key`, from `signed`.
        frames_T: numbers of the rows' frames.
        num_candidates: as for `gumbel`.
    """
    candidates = torch.arange(num_candidates, device=frames_T.device)
    key = words_2T[0, :, None], words_2T[1, :, None]
    return _as_gumbel(_hashed(key, frames_T, candidates[None, :]))


def _uniform_at(key: tuple[int, int], frames_T: Tensor, candidates_TK: Tensor) -> Tensor:
    """Hash frame and candidate under a key of integers."""
    return _hashed((signed(key[0]), signed(key[1])), frames_T, candidates_TK)


def _hashed(
    key: tuple[int | Tensor, int | Tensor], frames_T: Tensor, candidates_TK: Tensor
) -> Tensor:
    """Hash frame and candidate under a key; two words per frame keep 64 bits of state."""
    frames_T1 = frames_T.to(torch.int32)[:, None]
    low_T1 = _mix_32(frames_T1 * signed(GOLDEN_32) + key[0])
    high_T1 = _mix_32(frames_T1 * signed(0x85EBCA6B) ^ low_T1 ^ key[1])
    x_TK = _mix_32(candidates_TK.to(torch.int32) * signed(GOLDEN_32) + low_T1)
    x_TK = _mix_32(x_TK.bitwise_xor_(high_T1))
    # With the sign turned, a signed number is the unsigned one less 2**31. Half a step from both
    # ends, so that neither logarithm meets 0 or 1.
    return x_TK.bitwise_xor_(signed(1 << 31)).double().add_(2.0**31 + 0.5).mul_(2.0**-32)


def _mix_32(x: Tensor) -> Tensor:
    """Finalise 32 bits in place: every input bit flips each output bit half the time."""
    x = x.bitwise_xor_((x >> 16) & 0xFFFF).mul_(signed(0x7FEB352D))
    x = x.bitwise_xor_((x >> 15) & 0x1FFFF).mul_(signed(0x846CA68B))
    return x.bitwise_xor_((x >> 16) & 0xFFFF)


def signed(word: int) -> int:
    """Return the number that as an int32 has the bits of a word."""
    return word - (1 << 32) if word >> 31 else word


def _home(tensor: Tensor) -> torch.device:
    """Return where `precise` numbers of a tensor are."""
    return torch.device("cpu") if tensor.device.type == "mps" else tensor.device


def _check_finite(kept: Tensor, stage: str, level: int) -> None:
    if not bool(kept.isfinite().all()):
        raise StageError(f"{stage} gave logits that are not finite at level {level}", stage=stage)
