"""Writing a song's coarse levels, token by token.

Shape letters: S stream positions, T frames, D width, V candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from khala.backbone.config import COARSE_LEVELS
from khala.backbone.model import Backbone, check_ids
from khala.errors import RequestError, TokenError
from khala.nn.sampling import sample_top_k

Ended = Literal["end_token", "limit", "cancelled"]


@torch.inference_mode()
def generate_coarse(
    backbone: Backbone,
    prompt_S: Tensor | Sequence[int],
    *,
    num_frames_min: int,
    num_frames_max: int,
    temperature: float,
    top_k: int,
    seed: int,
    on_frame: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[Tensor, Ended]:
    """Sample levels 0 and 1 after a prompt, one frame after another.

    Only what can follow is sampled: a code of level 0 (or the end token, once ``num_frames_min``
    frames are written), then a code of level 1. Draws are addressed by (seed, "backbone", level,
    frame), so they depend on nothing else.

    Args:
        prompt_S: ids of text and control tokens, ending with the one that begins audio.
        num_frames_min: the end token is not offered before; equal to the maximum, never.
        num_frames_max: where the song is cut if the model has not ended it.
        temperature: divides the logits; 0 takes the best candidate.
        top_k: candidates kept at each step.
        on_frame: called with the number of finished frames after each of them.
        should_stop: asked before each frame; True ends with what is there.

    Returns:
        codes_2T, int64 on the model's device, and why it ended.

    Raises:
        RequestError: the bounds make no sense, or prompt and frames do not fit the model.
        TokenError: the prompt is empty or holds ids that are not text.
    """
    layout = backbone.config.layout
    device = backbone.lm_head.weight.device
    tokens_1S = torch.as_tensor(prompt_S, dtype=torch.int64, device=device).reshape(1, -1)
    _check_request(backbone, tokens_1S, num_frames_min, num_frames_max)
    heads = _level_heads(backbone)
    cache = backbone.new_cache(1, tokens_1S.shape[1] + COARSE_LEVELS * num_frames_max)
    codes = torch.empty(COARSE_LEVELS, num_frames_max, dtype=torch.int64, device=device)
    hidden_D = backbone.hidden(tokens_1S, cache=cache)[0, -1]
    for frame in range(num_frames_max):
        if should_stop is not None and should_stop():
            return codes[:, :frame].clone(), "cancelled"
        frames_T = torch.tensor([frame], device=device)
        for level in range(COARSE_LEVELS):
            logits_1V = F.linear(hidden_D, heads[level]).float()[None]
            if level == 0 and frame < num_frames_min:
                logits_1V = logits_1V[:, : layout.codebook_size]
            choice_1 = sample_top_k(
                logits_1V,
                top_k=top_k,
                temperature=temperature,
                seed=seed,
                stage="backbone",
                level=level,
                frames_T=frames_T,
            )
            if level == 0 and int(choice_1) == layout.codebook_size:
                return codes[:, :frame].clone(), "end_token"
            codes[level, frame] = choice_1[0]
            if level + 1 < COARSE_LEVELS or frame + 1 < num_frames_max:
                token_11 = (choice_1 + layout.first_id(level))[None]
                hidden_D = backbone.hidden(token_11, cache=cache)[0, -1]
        if on_frame is not None:
            on_frame(frame + 1)
    return codes, "limit"


def _level_heads(backbone: Backbone) -> list[Tensor]:
    """Return each level's rows of the output matrix; level 0 has the end token's row after them."""
    layout, weight_VD = backbone.config.layout, backbone.lm_head.weight
    heads = [
        weight_VD[layout.window(level)[0] : layout.window(level)[1]]
        for level in range(COARSE_LEVELS)
    ]
    end = layout.control.end_of_text
    heads[0] = torch.cat((heads[0], weight_VD[end : end + 1]))
    return heads


def _check_request(
    backbone: Backbone, tokens_1S: Tensor, num_frames_min: int, num_frames_max: int
) -> None:
    """Refuse what cannot be generated, before any work is done."""
    if not 0 <= num_frames_min <= num_frames_max or num_frames_max < 1:
        raise RequestError(
            f"a song needs 0 <= least frames <= most frames and at least one frame, "
            f"not {num_frames_min}..{num_frames_max}"
        )
    if tokens_1S.shape[1] == 0:
        raise TokenError("the prompt is empty")
    check_ids(tokens_1S, backbone.config.layout.text_vocab_size)
    needed = tokens_1S.shape[1] + COARSE_LEVELS * num_frames_max
    if needed > backbone.max_positions:
        most = max(0, (backbone.max_positions - tokens_1S.shape[1]) // COARSE_LEVELS)
        raise RequestError(
            f"{num_frames_max} frames after a prompt of {tokens_1S.shape[1]} tokens are too long: "
            f"this model can write {most} frames after it"
        )
