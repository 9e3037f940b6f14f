"""Codes to tokens and back: the only place where one becomes the other.

Shape letters, this file only: B batch, Q levels, T codec frames, S stream positions (S = Q * T).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from khala.errors import TokenError
from khala.tokens.layout import TokenLayout

if TYPE_CHECKING:
    from torch import Tensor


def interleave(codes_BQT: Tensor, layout: TokenLayout) -> Tensor:
    """Flatten codec frames into one causal stream, coarsest level first.

    Position ``s`` of the stream holds level ``s % Q`` of frame ``s // Q``, so the stream can be
    cut after any whole frame and still be sound (https://arxiv.org/abs/2605.01790).

    Args:
        codes_BQT: codes of the ``Q`` coarsest levels, ``1 <= Q <= layout.num_levels``.
        layout: the alphabet to write in.

    Returns:
        tokens_BS, int64.

    Raises:
        TokenError: a code outside its codebook, or a table of another shape or type. Checked
            here, at the border, and nowhere deeper: models index without looking.

    Example:
        >>> import torch
        >>> interleave(torch.tensor([[[0, 1], [2, 3]]]), published_layout()).tolist()
        [[128256, 129282, 128257, 129283]]
    """
    _check(codes_BQT, "codes_BQT", num_dims=3)
    num_levels = codes_BQT.shape[1]
    if not 1 <= num_levels <= layout.num_levels:
        raise TokenError(f"codes have {num_levels} levels: 1 to {layout.num_levels} are allowed")
    codes_BQT = codes_BQT.long()
    if bool(((codes_BQT < 0) | (codes_BQT >= layout.codebook_size)).any()):
        raise TokenError(
            f"codes lie in [{int(codes_BQT.min())}, {int(codes_BQT.max())}]: they must lie in "
            f"[0, {layout.codebook_size})"
        )
    first_ids_Q = codes_BQT.new_tensor([layout.first_id(level) for level in range(num_levels)])
    return (codes_BQT + first_ids_Q[None, :, None]).transpose(1, 2).flatten(1)


def deinterleave(tokens_BS: Tensor, layout: TokenLayout, *, num_levels: int) -> Tensor:
    """Undo ``interleave``: tokens_BS to codes_BQT with ``Q = num_levels``, int64.

    Raises:
        TokenError: the stream ends inside a frame, or a token is not of the level whose turn it
            is.
    """
    _check(tokens_BS, "tokens_BS", num_dims=2)
    if not 1 <= num_levels <= layout.num_levels:
        raise TokenError(f"{num_levels} levels: 1 to {layout.num_levels} are allowed")
    num_tokens = tokens_BS.shape[1]
    if num_tokens % num_levels:
        raise TokenError(
            f"{num_tokens} tokens end inside a frame: a frame has {num_levels} of them"
        )
    tokens_BS = tokens_BS.long()
    first_ids_Q = tokens_BS.new_tensor([layout.first_id(level) for level in range(num_levels)])
    codes_BTQ = tokens_BS.reshape(len(tokens_BS), -1, num_levels) - first_ids_Q
    wrong_BTQ = (codes_BTQ < 0) | (codes_BTQ >= layout.codebook_size)
    if bool(wrong_BTQ.any()):
        position = int(wrong_BTQ.flatten(1).any(0).long().argmax())
        low, high = layout.window(position % num_levels)
        raise TokenError(
            f"a token at position {position} is not of level {position % num_levels}: ids of that "
            f"level lie in [{low}, {high})"
        )
    return codes_BTQ.transpose(1, 2).contiguous()


def _check(tensor: Tensor, name: str, *, num_dims: int) -> None:
    if tensor.ndim != num_dims or tensor.is_floating_point() or tensor.is_complex():
        raise TokenError(
            f"{name} has shape {tuple(tensor.shape)} and type {tensor.dtype}: {num_dims} "
            "dimensions of integers are allowed"
        )
