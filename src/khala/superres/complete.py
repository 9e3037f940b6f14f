"""The 62 passes: each adds one level to every frame of a song.

Shape letters: B batch, P prompt positions, T frames, Q levels, D width, V codes of one level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from khala.errors import RequestError, TokenError
from khala.nn.sampling import sample_top_k
from khala.superres.model import SuperResolution
from khala.superres.packing import Packing
from khala.tokens import COARSE_LEVELS


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A song to be completed."""

    prompt_S: Tensor
    """Ids of text and control tokens; the last one gives its place to the marker."""

    codes_QT: Tensor
    """The levels that are there, coarsest first: 2 for a sketch, more for a song to refine."""

    seed: int
    """Addresses its draws, together with level and frame."""


@torch.inference_mode()
def complete_songs(
    model: SuperResolution,
    sketches: Sequence[Sketch],
    *,
    top_k: int | None = None,
    levels: int | None = None,
    on_level: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    autocast: torch.dtype | None = None,
    temperature: float | None = None,
    padded_positions: int | None = None,
) -> list[Tensor]:
    """Write levels 2 .. ``levels`` - 1 of several songs, one pass per level.

    The frames' input is a running float32 sum: each pass adds the embedding of the level written
    last, so the cost of a pass does not grow with its level. Draws are addressed by (seed,
    "superres", level, frame): neither the other songs nor padding nor the starting level matter.

    Args:
        sketches: songs with the same number of levels present.
        top_k: codes kept at each frame; 1 takes the best, None is the model's own number.
        levels: levels to reach; None: all of the model's.
        on_level: called with the number of levels present after each pass.
        should_stop: asked before each pass; True returns the levels finished so far.
        autocast: dtype of the matrix products, such as bfloat16; None: the weights' own. Another
            dtype gives other rounding and so, here and there, other codes.
        temperature: divides the logits; None is the model's own number.
        padded_positions: number the draws as the published program does, whose songs are padded
            to at least so many positions and which draws for every position of every pass: the
            codes then depend on the length of prompt and padding. None: by level and frame.

    Returns:
        codes_QT of each song, int64, with the given levels unchanged.

    Raises:
        RequestError: ``levels`` or ``top_k`` make no sense, or a song does not fit the model.
        TokenError: a prompt or codes hold what is not text or not codes.
    """
    top_k = model.config.sampling_top_k if top_k is None else top_k
    temperature = model.config.sampling_temperature if temperature is None else temperature
    wanted = model.config.layout.num_levels if levels is None else levels
    _check(model, sketches, wanted)
    device = model.lm_head.weight.device
    prompt_BP, codes_BQT, packing = _pad(sketches, wanted, device)
    first = sketches[0].codes_QT.shape[0]
    frames_BTD = model.embed_levels(codes_BQT, first).float()
    done = first
    for level in range(first, wanted):
        if should_stop is not None and should_stop():
            break
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            hidden_BSD = model.level_hidden(
                prompt_BP, frames_BTD, [level] * len(sketches), packing=packing
            )
            logits_BTV = model.level_logits(packing.frames_of(hidden_BSD), level)
        for item, sketch in enumerate(sketches):
            num_frames = sketch.codes_QT.shape[1]
            codes_BQT[item, level, :num_frames] = sample_top_k(
                logits_BTV[item, :num_frames],
                top_k=top_k,
                temperature=temperature,
                seed=sketch.seed,
                stage="superres",
                level=level,
                frames_T=_draws(sketch, level, padded_positions).to(device),
            )
        if level + 1 < wanted:
            frames_BTD = frames_BTD + model.embed_level(codes_BQT[:, level], level)
        done = level + 1
        if on_level is not None:
            on_level(done)
    return [
        codes_BQT[item, :done, : sketch.codes_QT.shape[1]].clone()
        for item, sketch in enumerate(sketches)
    ]


def _draws(sketch: Sketch, level: int, padded_positions: int | None) -> Tensor:
    """Return the number of each frame's draw among those of a level."""
    frames_T = torch.arange(sketch.codes_QT.shape[1])
    if padded_positions is None:
        return frames_T
    num_prompt = sketch.prompt_S.shape[0]
    num_rows = max(padded_positions, num_prompt + frames_T.shape[0])
    return (level - COARSE_LEVELS) * num_rows + num_prompt + frames_T


def _pad(
    sketches: Sequence[Sketch], wanted: int, device: torch.device
) -> tuple[Tensor, Tensor, Packing]:
    """Lay songs side by side, padded on the right with zeros that nothing looks at."""
    prompts = [sketch.prompt_S.shape[0] for sketch in sketches]
    frames = [sketch.codes_QT.shape[1] for sketch in sketches]
    prompt_BP = torch.zeros(len(sketches), max(prompts), dtype=torch.int64, device=device)
    codes_BQT = torch.zeros(len(sketches), wanted, max(frames), dtype=torch.int64, device=device)
    for item, sketch in enumerate(sketches):
        prompt_BP[item, : prompts[item]] = sketch.prompt_S.to(device)
        num_levels = sketch.codes_QT.shape[0]
        codes_BQT[item, :num_levels, : frames[item]] = sketch.codes_QT.to(device)
    packing = Packing(
        prompt_lengths_B=torch.tensor(prompts, device=device),
        num_frames_B=torch.tensor(frames, device=device),
        max_prompt=max(prompts),
        max_frames=max(frames),
        is_full=len(set(prompts)) == 1 and len(set(frames)) == 1,
    )
    return prompt_BP, codes_BQT, packing


def _check(model: SuperResolution, sketches: Sequence[Sketch], wanted: int) -> None:
    """Refuse what cannot be completed, before any work is done."""
    layout = model.config.layout
    if not sketches:
        raise RequestError("there is no song to complete")
    present = sketches[0].codes_QT.shape[0]
    if not COARSE_LEVELS <= present <= wanted <= layout.num_levels:
        raise RequestError(
            f"levels must lie between the {present} present (at least {COARSE_LEVELS}) and "
            f"{layout.num_levels}, not {wanted}"
        )
    for sketch in sketches:
        codes_QT, prompt_S = sketch.codes_QT, sketch.prompt_S
        if codes_QT.ndim != 2 or prompt_S.ndim != 1 or codes_QT.shape[0] != present:
            raise TokenError("a sketch is a prompt [S] and codes [Q, T], the same Q for all")
        if prompt_S.shape[0] == 0 or codes_QT.shape[1] == 0:
            raise TokenError("a sketch needs at least one prompt token and one frame")
        if int(codes_QT.min()) < 0 or int(codes_QT.max()) >= layout.codebook_size:
            raise TokenError(f"codes must lie in [0, {layout.codebook_size})")
        if int(prompt_S.min()) < 0 or int(prompt_S.max()) >= layout.text_vocab_size:
            raise TokenError(f"prompt ids must lie in [0, {layout.text_vocab_size})")
        needed = prompt_S.shape[0] + codes_QT.shape[1]
        if needed > model.max_positions:
            raise RequestError(
                f"a prompt of {prompt_S.shape[0]} tokens and {codes_QT.shape[1]} frames are too "
                f"long: this model reads {model.max_positions} positions"
            )
