"""Writing a song's coarse levels, token by token.

Shape letters: S stream positions, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from khala.backbone.blocks import writer_of
from khala.backbone.model import Backbone
from khala.backbone.writing import Ended, Writing, WritingSettings


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
    has_int8_steps: bool = False,
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
        has_int8_steps: read the matrices in 8 bits for every token: several times fewer bytes.
        on_frame: called with the number of finished frames after each of them.
        should_stop: asked before each frame; True ends with what is there.

    Returns:
        codes_2T, int64 on the CPU, and why it ended.

    Raises:
        RequestError: the bounds make no sense, prompt and frames do not fit the model, or
            guidance has nothing to compare with.
        TokenError: the prompt is empty or holds ids that are not text.
        StageError: the model gave scores that are no numbers.
    """
    settings = WritingSettings(
        num_frames_min=num_frames_min,
        num_frames_max=num_frames_max,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        guidance_scale=guidance_scale,
    )
    song = Writing(backbone, prompt_S, settings, bare_S=bare_S)
    writer = writer_of(backbone, has_int8_steps=has_int8_steps)
    writer.begin(song)
    while not song.is_done:
        if should_stop is not None and should_stop():
            song.finish("cancelled")
            break
        written = song.num_frames
        writer.write_frame([song])
        if on_frame is not None and song.num_frames > written:
            on_frame(song.num_frames)
    if song.failed is not None:
        raise song.failed
    assert song.ended is not None
    return song.codes_2T, song.ended
