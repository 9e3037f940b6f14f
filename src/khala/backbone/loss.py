"""The backbone's objective: the next audio token, or the end of the song.

Shape letters: B batch, S stream positions, N scored positions, V candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from khala.backbone.model import Backbone
from khala.nn.cross_entropy import linear_cross_entropy
from khala.tokens import COARSE_LEVELS


def next_token_losses(
    backbone: Backbone,
    tokens_BS: Tensor,
    loss_mask_BS: Tensor,
    *,
    full_vocabulary: bool = False,
    lengths: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Return the mean cross-entropy, in nats, of the marked tokens given what precedes them.

    Text is never scored: the mask marks audio tokens and the end token. By default the softmax
    runs over the tokens that can be scored at all (levels 0, 1 and the end token), the *windowed
    normaliser*: the model spends nothing on pushing text down where text never stands, and the
    output product is 2,049 rows instead of a vocabulary. ``full_vocabulary`` gives the usual
    softmax, which is what the published weights were presumably trained with.

    Args:
        tokens_BS: streams padded on the right, or packed in one row; ids under the padding are not
            looked at.
        loss_mask_BS: True where the token at that position is to be predicted, from the position
            before it. The first token of a stream is never to be marked.
        full_vocabulary: normalise over text as well.
        lengths: of the streams packed in the one row; see ``Trunk.transform``.

    Returns:
        "loss" over all marked tokens, "level_0", "level_1" and "end" over theirs (0 where the
        batch has none).
    """
    layout = backbone.config.layout
    hidden_BSD = backbone.hidden(tokens_BS.clamp_min(0), lengths=lengths)
    scored_BS = loss_mask_BS[:, 1:]
    hidden_ND = hidden_BSD[:, :-1][scored_BS]
    targets_N = tokens_BS[:, 1:][scored_BS]
    first, end = layout.first_id(0), layout.control.end_of_text
    if full_vocabulary:
        weight_VD = backbone.lm_head.weight[: backbone.config.vocab_size]
        classes_N = targets_N
    else:
        weight_VD = window_rows(backbone)
        is_end_N = targets_N == end
        classes_N = torch.where(is_end_N, weight_VD.shape[0] - 1, targets_N - first)
    losses_N = linear_cross_entropy(hidden_ND, weight_VD, classes_N)
    level_N = (targets_N - first).div(layout.codebook_size, rounding_mode="floor")
    return {
        "loss": losses_N.mean(),
        **{f"level_{level}": _mean(losses_N, level_N == level) for level in range(COARSE_LEVELS)},
        "end": _mean(losses_N, targets_N == end),
    }


def window_rows(backbone: Backbone) -> Tensor:
    """Return the output rows of levels 0 and 1, then the end token's: 2 x codebook + 1 rows."""
    layout, weight_VD = backbone.config.layout, backbone.lm_head.weight
    lo, hi = layout.window(0)[0], layout.window(COARSE_LEVELS - 1)[1]
    end = layout.control.end_of_text
    return torch.cat((weight_VD[lo:hi], weight_VD[end : end + 1]))


def _mean(losses_N: Tensor, chosen_N: Tensor) -> Tensor:
    """Mean of the chosen losses without leaving the device; detached, for the log."""
    chosen = chosen_N.to(losses_N.dtype)
    return ((losses_N.detach() * chosen).sum() / chosen.sum().clamp_min(1.0)).detach()
