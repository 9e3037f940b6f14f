"""Writing coarse levels as the published program does: any id of the vocabulary may come.

Nothing holds the two levels in turn, and nothing keeps text out; the model has to know. What comes
out is checked afterwards. Only ``compat="published"`` uses this.

Shape letters: S stream positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from khala.backbone.model import Backbone, check_ids
from khala.backbone.writing import Ended
from khala.errors import RequestError, StageError, TokenError
from khala.nn.sampling import sample_top_k
from khala.tokens import COARSE_LEVELS, TokenLayout, deinterleave


@torch.inference_mode()
def generate_free(
    backbone: Backbone,
    prompt_S: Tensor | Sequence[int],
    *,
    max_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    on_token: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[Tensor, Ended]:
    """Sample ids from the whole vocabulary until the end token, which is not returned.

    All candidates that equal the ``top_k``-th are kept. Draws are addressed by (seed, "backbone",
    level, frame) of the place in the stream, candidates by their id.

    Args:
        prompt_S: ids of any kind the model reads.
        max_tokens: where the stream is cut if the model has not ended it.
        temperature: divides the logits; 0 takes the best id.
        top_k: ids kept at each step; 1 takes the best.
        on_token: called with the place, counted from 0 after the prompt, and the id there.
        should_stop: asked before each level 0's turn; True ends with what is there.

    Returns:
        tokens_S, int64 on the model's device, and why it ended.

    Raises:
        RequestError: prompt and tokens do not fit the model.
        TokenError: the prompt is empty or holds ids that are no ids.
    """
    device, config = backbone.lm_head.weight.device, backbone.config
    prompt_1S = torch.as_tensor(prompt_S, dtype=torch.int64, device=device)[None]
    num_prompt = prompt_1S.shape[1]
    if num_prompt == 0:
        raise TokenError("the prompt is empty")
    check_ids(prompt_1S, config.vocab_size)
    if max_tokens < 1 or num_prompt + max_tokens > backbone.max_positions:
        raise RequestError(
            f"{max_tokens} tokens after a prompt of {num_prompt}: 1 to "
            f"{max(backbone.max_positions - num_prompt, 0)} fit this model"
        )
    cache = backbone.new_cache(1, num_prompt + max_tokens)
    hidden_1SD = backbone.hidden(prompt_1S, cache=cache)
    tokens_S = torch.empty(max_tokens, dtype=torch.int64, device=device)
    for place in range(max_tokens):
        frame, level = divmod(place, COARSE_LEVELS)
        if level == 0 and should_stop is not None and should_stop():
            return tokens_S[:place].clone(), "cancelled"
        token_1 = sample_top_k(
            backbone.window_logits(hidden_1SD[:, -1], 0, config.vocab_size),
            top_k=top_k,
            temperature=temperature,
            seed=seed,
            stage="backbone",
            level=level,
            frames_T=torch.tensor([frame], device=device),
            keep_ties=True,
        )
        if int(token_1) == config.layout.control.end_of_text:
            return tokens_S[:place].clone(), "end_token"
        tokens_S[place] = token_1[0]
        if on_token is not None:
            on_token(place, int(token_1))
        if place + 1 < max_tokens:
            hidden_1SD = backbone.hidden(token_1[:, None], cache=cache)
    return tokens_S, "limit"


def fits_its_place(token: int, place: int, layout: TokenLayout) -> bool:
    """Tell whether an id is a code of the level whose turn it is."""
    low, high = layout.window(place % COARSE_LEVELS)
    return low <= token < high


def paired_codes(tokens_S: Tensor, layout: TokenLayout) -> Tensor:
    """Return codes_2T of a stream that was sampled freely.

    Raises:
        StageError: where the published program fails: nothing was written, the stream ends inside
            a frame, or it holds ids that are no code of the level whose turn it is.
    """
    tokens = [int(token) for token in tokens_S]
    wrong = [i for i, token in enumerate(tokens) if not fits_its_place(token, i, layout)]
    what = ""
    if not tokens:
        what = "ended the song before its first frame"
    elif wrong:
        what = (
            f"wrote {len(wrong)} of {len(tokens)} ids that are no code of the level whose turn it "
            f"was, first id {tokens[wrong[0]]} at place {wrong[0]}"
        )
    elif len(tokens) % COARSE_LEVELS:
        what = f"ended the song inside a frame, after {len(tokens)} ids"
    if what:
        raise StageError(
            f"sampled from the whole vocabulary, the backbone {what}; the published program fails "
            "here too: try another seed, or leave out compat",
            stage="backbone",
        )
    return deinterleave(tokens_S[None], layout, num_levels=COARSE_LEVELS)[0]
