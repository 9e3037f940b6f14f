"""The 62 passes: each adds one level to every frame of a song.

Shape letters: P prompt positions, S stream positions, T frames, Q levels, D width, V codes of one
level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from khala.errors import RequestError, StageError, TokenError
from khala.nn.inference import InferenceTrunk
from khala.nn.sampling import sample_top_k
from khala.superres.model import SuperResolution
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
    last, so the cost of a pass does not grow with its level. Every song is computed by itself and
    without padding: a pass over a whole song fills the machine; `add_level` takes several at once.
    Draws are addressed by (seed, "superres", level, frame), so neither the other songs nor the
    starting level matter.

    Args:
        sketches: songs with the same number of levels present.
        top_k: codes kept at each frame; 1 takes the best, None is the model's own number.
        levels: levels to reach; None: all of the model's.
        on_level: called with the number of levels present after each pass.
        should_stop: asked before each pass; True returns the levels finished so far.
        autocast: dtype of the matrix products of the layers, such as bfloat16; None: the weights'
            own. Another dtype gives other rounding and so, here and there, other codes.
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
    wanted = model.config.layout.num_levels if levels is None else levels
    _check(model, sketches, wanted)
    trunk = InferenceTrunk(model, autocast)
    songs = [
        Completion(
            model,
            sketch,
            trunk=trunk,
            top_k=model.config.sampling_top_k if top_k is None else top_k,
            temperature=model.config.sampling_temperature if temperature is None else temperature,
            padded_positions=padded_positions,
        )
        for sketch in sketches
    ]
    for level in range(sketches[0].codes_QT.shape[0], wanted):
        if should_stop is not None and should_stop():
            break
        for song in songs:
            song.add_level()
        if on_level is not None:
            on_level(level + 1)
    return [song.codes_QT for song in songs]


class Completion:
    """One song that is getting its fine levels, one pass at a time."""

    def __init__(
        self,
        model: SuperResolution,
        sketch: Sketch,
        *,
        trunk: InferenceTrunk,
        top_k: int,
        temperature: float,
        padded_positions: int | None = None,
    ) -> None:
        """Take a song over.

        Args:
            model: has the tables; ``trunk`` is its own.
            sketch: checked; see `complete_songs`, also for what draws the codes.
        """
        self.trunk = trunk
        self.failed: StageError | None = None
        """Why there is no next level: the scores were no numbers."""

        self._model, self._sketch = model, sketch
        self._top_k, self._temperature = top_k, temperature
        self._padded_positions = padded_positions
        device = model.lm_head.weight.device
        num_levels = sketch.codes_QT.shape[0]
        self._levels_T = list(sketch.codes_QT.cpu())
        self._prompt_PD = model.embed(sketch.prompt_S.to(device))
        codes_QT = sketch.codes_QT.to(device)
        self._frames_TD = model.embed_levels(codes_QT[None, :COARSE_LEVELS], COARSE_LEVELS)[
            0
        ].float()
        # one after another, as they were added when they were drawn: the same rounding, and so the
        # same codes above, however often a song was stopped
        for level in range(COARSE_LEVELS, num_levels):
            self._frames_TD += model.embed_level(codes_QT[level], level)

    @property
    def num_levels(self) -> int:
        """Levels that are there."""
        return len(self._levels_T)

    @property
    def codes_QT(self) -> Tensor:
        """All levels that are there, int64, on the CPU: a lost device takes none of them along."""
        return torch.stack(self._levels_T)

    def add_level(self) -> None:
        """Write the next level of every frame.

        Raises:
            StageError: the model gave scores that are no numbers.
        """
        add_level([self])
        if self.failed is not None:
            raise self.failed

    def stream(self) -> Tensor:
        """Return what the trunk reads for the next level: prompt, marker, frames; [S, D]."""
        model = self._model
        marker = torch.tensor(
            model.config.layout.marker_id(self.num_levels), device=self._frames_TD.device
        )
        self._prompt_PD[-1] = model.embed(marker)
        return torch.cat((self._prompt_PD, self._frames_TD.to(self._prompt_PD.dtype)))

    def draw(self, hidden_SD: Tensor) -> None:
        """Write the next level from what the trunk made of the stream.

        Raises:
            StageError: the model gave scores that are no numbers.
        """
        model, level = self._model, self.num_levels
        logits_TV = model.level_logits(hidden_SD[len(self._prompt_PD) :], level)
        codes_T = sample_top_k(
            logits_TV,
            top_k=self._top_k,
            temperature=self._temperature,
            seed=self._sketch.seed,
            stage="superres",
            level=level,
            frames_T=_draws(self._sketch, level, self._padded_positions).to(logits_TV.device),
        )
        self._levels_T.append(codes_T.cpu())
        if level + 1 < model.config.layout.num_levels:
            self._frames_TD += model.embed_level(codes_T, level)


@torch.inference_mode()
def add_level(songs: Sequence[Completion]) -> None:
    """Write the next level of every frame of some songs of one trunk in one pass.

    The songs need not have the same number of levels. One whose scores are no numbers is marked
    ``failed``; the others go on.
    """
    streams = [song.stream() for song in songs]
    lengths = [len(stream) for stream in streams]
    hidden_RD = songs[0].trunk.whole(torch.cat(streams), lengths)
    for song, hidden_SD in zip(songs, torch.split(hidden_RD, lengths), strict=True):
        try:
            song.draw(hidden_SD)
        except StageError as error:
            song.failed = error


def _draws(sketch: Sketch, level: int, padded_positions: int | None) -> Tensor:
    """Return the number of each frame's draw among those of a level."""
    frames_T = torch.arange(sketch.codes_QT.shape[1])
    if padded_positions is None:
        return frames_T
    num_prompt = sketch.prompt_S.shape[0]
    num_rows = max(padded_positions, num_prompt + frames_T.shape[0])
    return (level - COARSE_LEVELS) * num_rows + num_prompt + frames_T


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
