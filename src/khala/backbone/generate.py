"""Writing a song's coarse levels, token by token.

Shape letters: B streams (the prompt's and, if guided, the bare one's), S stream positions,
T frames, D width, V candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from khala.backbone.model import Backbone, check_ids
from khala.errors import RequestError, TokenError
from khala.nn.cache import KVCache
from khala.nn.sampling import sample_top_k, top_candidates
from khala.tokens import COARSE_LEVELS

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
    guidance_scale: float = 1.0,
    bare_S: Tensor | Sequence[int] | None = None,
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
        guidance_scale: how far scores move from those after ``bare_S`` to those after the prompt,
            and beyond (classifier-free guidance, https://arxiv.org/abs/2207.12598): 1 is the
            model's own distribution, and the only one for which ``bare_S`` is not read.
        bare_S: the prompt without description and words.
        on_frame: called with the number of finished frames after each of them.
        should_stop: asked before each frame; True ends with what is there.

    Returns:
        codes_2T, int64 on the model's device, and why it ended.

    Raises:
        RequestError: the bounds make no sense, prompt and frames do not fit the model, or
            guidance has nothing to compare with.
        TokenError: the prompt is empty or holds ids that are not text.
    """
    layout = backbone.config.layout
    device = backbone.lm_head.weight.device
    if guidance_scale != 1.0 and bare_S is None:
        raise RequestError("guidance needs the bare prompt to compare with")
    prompts = [prompt_S] if guidance_scale == 1.0 or bare_S is None else [prompt_S, bare_S]
    streams = [torch.as_tensor(ids, dtype=torch.int64, device=device)[None] for ids in prompts]
    for tokens_1S in streams:
        _check_request(backbone, tokens_1S, num_frames_min, num_frames_max)
    heads = _level_heads(backbone)
    codes = torch.empty(COARSE_LEVELS, num_frames_max, dtype=torch.int64, device=device)
    cache, hidden_BD = _read_prompts(backbone, streams, num_new=COARSE_LEVELS * num_frames_max)
    for frame in range(num_frames_max):
        if should_stop is not None and should_stop():
            return codes[:, :frame].clone(), "cancelled"
        frames_T = torch.tensor([frame], device=device)
        for level in range(COARSE_LEVELS):
            logits_BV = F.linear(hidden_BD, heads[level]).float()
            if level == 0 and frame < num_frames_min:
                logits_BV = logits_BV[:, : layout.codebook_size]
            choice_1 = sample_top_k(
                _guided(logits_BV, guidance_scale, top_k),
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
                token_B1 = (choice_1 + layout.first_id(level)).expand(len(streams))[:, None]
                hidden_BD = backbone.hidden(token_B1, cache=cache)[:, -1]
        if on_frame is not None:
            on_frame(frame + 1)
    return codes, "limit"


def _read_prompts(
    backbone: Backbone, streams: Sequence[Tensor], *, num_new: int
) -> tuple[KVCache, Tensor]:
    """Return a cache with each stream in its row and room for more, and hidden_BD after each."""
    longest = max(tokens_1S.shape[1] for tokens_1S in streams)
    cache = backbone.new_cache(len(streams), longest + num_new)
    last = []
    for index, tokens_1S in enumerate(streams):
        row = cache.row(index)
        last.append(backbone.hidden(tokens_1S, cache=row)[:, -1])
        cache.lengths[index] = tokens_1S.shape[1]
    return cache, torch.cat(last)


def _guided(logits_BV: Tensor, scale: float, top_k: int) -> Tensor:
    """Return the scores to sample from, [1, V]: the prompt's, moved away from the bare one's.

    Only what the prompt alone would keep can be chosen, so that guidance prefers but never invents
    (as contrastive decoding does, https://arxiv.org/abs/2210.15097).
    """
    if len(logits_BV) == 1:
        return logits_BV
    logits_BV = logits_BV.log_softmax(dim=1)
    asked_1V, bare_1V = logits_BV[:1], logits_BV[1:]
    guided_1V = bare_1V + scale * (asked_1V - bare_1V)
    is_kept_1V = torch.zeros_like(guided_1V, dtype=torch.bool)
    kept_1K = top_candidates(asked_1V, min(top_k, asked_1V.shape[1]))
    lowest = torch.finfo(guided_1V.dtype).min
    return guided_1V.masked_fill(~is_kept_1V.scatter(1, kept_1K, value=True), lowest)


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
