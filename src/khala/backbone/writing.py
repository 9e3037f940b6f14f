"""Songs while their coarse levels are written, any number of them frame by frame.

Shape letters: R rows (of each song the prompt's stream and, if guided, the bare one's), S stream
positions, D width, V candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from khala.backbone.model import Backbone, check_ids
from khala.backbone.steps import Steps
from khala.errors import RequestError, StageError, TokenError
from khala.nn.sampling import gumbel, largest_mask
from khala.tokens import COARSE_LEVELS

__all__ = ["Ended", "Writer", "Writing", "WritingSettings"]

Ended = Literal["end_token", "limit", "cancelled"]

NOISE_FRAMES = 64
"""Frames whose draws are made at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WritingSettings:
    """How one song is drawn; see `khala.backbone.generate_coarse`."""

    num_frames_min: int
    """The end token is not offered before; equal to the maximum, never."""

    num_frames_max: int
    """Where the song is cut if the model has not ended it."""

    temperature: float
    """Divides the logits; 0 takes the best candidate."""

    top_k: int
    """Candidates kept at each step."""

    seed: int
    """Addresses the draws, together with level and frame."""

    guidance_scale: float = 1.0
    """How far scores move from the bare prompt's to the prompt's, and beyond."""

    def __post_init__(self) -> None:
        if not 0 <= self.num_frames_min <= self.num_frames_max or self.num_frames_max < 1:
            raise RequestError(
                f"a song needs 0 <= least frames <= most frames and at least one frame, "
                f"not {self.num_frames_min}..{self.num_frames_max}"
            )
        if self.top_k < 1:
            raise RequestError(f"top_k must be at least 1, not {self.top_k}")
        if not 0.0 <= self.temperature < float("inf"):
            raise RequestError(f"temperature must be 0 or more, not {self.temperature}")


class Writing:
    """One song being written: what it has read, what is drawn next, what there is so far."""

    ended: Ended | None
    """Why no more is written; None while it goes on."""

    failed: StageError | None
    """What broke this song and no other; its frames so far stay."""

    def __init__(
        self,
        backbone: Backbone,
        prompt_S: Tensor | Sequence[int],
        settings: WritingSettings,
        *,
        bare_S: Tensor | Sequence[int] | None = None,
    ) -> None:
        """Check a request. Nothing is computed or kept in memory before it is begun.

        Raises:
            RequestError: prompt and frames do not fit the model, or guidance has no bare prompt.
            TokenError: the prompt is empty or holds ids that are not text.
        """
        if settings.guidance_scale != 1.0 and bare_S is None:
            raise RequestError("guidance needs the bare prompt to compare with")
        self.settings = settings
        self.ended, self.failed = None, None
        self.num_frames = 0
        prompts = [prompt_S] if settings.guidance_scale == 1.0 else [prompt_S, bare_S]
        self.streams = [torch.as_tensor(ids, dtype=torch.int64).cpu() for ids in prompts]
        for tokens_S in self.streams:
            _check_stream(backbone, tokens_S, settings.num_frames_max)
        self.cache: Any = None
        """Keys and values of its streams, of the kind that `Steps.new_cache` makes."""

        self.prompt_RD: Tensor | None = None
        self.hidden_RD: Tensor | None = None
        self._codes_2T = torch.empty(COARSE_LEVELS, settings.num_frames_max, dtype=torch.int64)
        self._noise: list[npt.NDArray[np.float64]] = []

    @property
    def codes_2T(self) -> Tensor:
        """The frames written so far, int64, on the CPU: a lost device takes none of them along."""
        return self._codes_2T[:, : self.num_frames].clone()

    @property
    def is_done(self) -> bool:
        """Whether nothing more is to be written."""
        return self.ended is not None or self.failed is not None

    def has_prompts_of(self, other: Writing) -> bool:
        """Whether both songs read the same streams first."""
        return len(self.streams) == len(other.streams) and all(
            torch.equal(ours, theirs)
            for ours, theirs in zip(self.streams, other.streams, strict=True)
        )

    def keep(self, level: int, code: int) -> None:
        """Note the code drawn for the frame that is being written."""
        self._codes_2T[level, self.num_frames] = code
        if level + 1 == COARSE_LEVELS:
            self.num_frames += 1
            if self.num_frames == self.settings.num_frames_max:
                self.finish("limit")

    def finish(self, ended: Ended) -> None:
        """End the song and give its memory back."""
        self.ended = ended
        self.release()

    def fail(self, error: StageError) -> None:
        """Note what broke the song and give its memory back."""
        self.failed = error
        self.release()

    def release(self) -> None:
        """Forget what was read; the codes stay."""
        self.cache, self.prompt_RD, self.hidden_RD, self._noise = None, None, None, []

    def noise(self, level: int, num_candidates: int) -> npt.NDArray[np.float64]:
        """Return the draws of the frame that is being written, [V]."""
        row = self.num_frames % NOISE_FRAMES
        if (row == 0 and level == 0) or not self._noise:
            frames_T = torch.arange(NOISE_FRAMES) + (self.num_frames - row)
            self._noise = [
                gumbel(self.settings.seed, "backbone", each, frames_T, num_candidates).numpy()
                for each in range(COARSE_LEVELS)
            ]
        return self._noise[level][row]


class Writer:
    """Writes songs with one backbone, one frame of all of them at a time.

    A song is the same whatever songs are beside it: bit for bit on a CPU.
    """

    def __init__(self, backbone: Backbone, steps: Steps) -> None:
        """Take a backbone and how it reads single tokens, from `khala.backbone.steps.steps_of`."""
        self._backbone, self._steps = backbone, steps

    @torch.inference_mode()
    def begin(self, song: Writing, *, donor: Writing | None = None) -> None:
        """Read a song's prompts, or copy what another song with the same ones has read.

        Args:
            song: not begun.
            donor: a song that is being written, with ``song.has_prompts_of(donor)``.
        """
        longest = max(len(tokens_S) for tokens_S in song.streams)
        room = longest + COARSE_LEVELS * song.settings.num_frames_max
        song.cache = self._steps.new_cache(len(song.streams), room)
        if donor is not None and donor.cache is not None:
            song.cache.copy_from(donor.cache, [len(tokens_S) for tokens_S in song.streams])
            song.prompt_RD = song.hidden_RD = donor.prompt_RD
            return
        last, device = [], self._backbone.lm_head.weight.device
        for index, tokens_S in enumerate(song.streams):
            read = self._backbone.new_cache(1, len(tokens_S))
            hidden_1SD = self._backbone.hidden(tokens_S[None].to(device), cache=read)
            song.cache.take(index, read)
            last.append(hidden_1SD[:, -1])
        song.prompt_RD = song.hidden_RD = torch.cat(last)

    @torch.inference_mode()
    def write_frame(self, songs: Sequence[Writing]) -> None:
        """Write one frame of every song, or end it; what breaks one song ends it alone."""
        for level in range(COARSE_LEVELS):
            songs = [song for song in songs if not song.is_done]
            if not songs:
                return
            hidden_RD = torch.cat([_begun(song.hidden_RD) for song in songs])
            logits_RV = self._steps.scores(hidden_RD, level).cpu().numpy()
            first, tokens = 0, []
            for song in songs:
                num = len(song.streams)
                code = self._draw(song, level, logits_RV[first : first + num])
                if code is not None:
                    song.keep(level, code)
                    if not song.is_done:
                        tokens += [code + self._backbone.config.layout.first_id(level)] * num
                first += num
            self._read([song for song in songs if not song.is_done], tokens)

    def _draw(self, song: Writing, level: int, logits_RV: npt.NDArray[np.float32]) -> int | None:
        """Return the next code of a song; None where it ends or fails instead."""
        settings, num_codes = song.settings, self._backbone.config.layout.codebook_size
        if level == 0 and song.num_frames < settings.num_frames_min:
            logits_RV = logits_RV[:, :num_codes]
        if not np.isfinite(logits_RV).all():
            message = f"backbone gave logits that are not finite at level {level}"
            song.fail(StageError(message, stage="backbone"))
            return None
        # Only what the prompt alone would keep can be chosen, so that guidance prefers but never
        # invents (as contrastive decoding does, https://arxiv.org/abs/2210.15097).
        is_kept_V = largest_mask(logits_RV[:1], settings.top_k)[0]
        scores_V = logits_RV[0].astype(np.float64)
        if len(logits_RV) == 2:
            bare_V = logits_RV[1].astype(np.float64)
            scores_V = bare_V + settings.guidance_scale * (scores_V - bare_V)
        if settings.temperature > 0.0:
            scores_V /= settings.temperature
            scores_V += song.noise(level, num_codes + 1)[: len(scores_V)]
        chosen = int(np.where(is_kept_V, scores_V, -np.inf).argmax())
        if level == 0 and chosen == num_codes:
            song.finish("end_token")
            return None
        return chosen

    def _read(self, songs: Sequence[Writing], tokens: Sequence[int]) -> None:
        """Read the token of every row, and hand each song its rows' hidden state."""
        if not songs:
            return
        device = self._backbone.lm_head.weight.device
        embedded_RD = self._backbone.embed(torch.tensor(tokens, device=device))
        hidden_RD = self._steps.step(embedded_RD, [_begun(song.cache) for song in songs])
        rows = torch.split(hidden_RD, [len(song.streams) for song in songs])
        for song, own_RD in zip(songs, rows, strict=True):
            song.hidden_RD = own_RD


def _begun(value: Any) -> Any:
    """Return what a song has once it is begun."""
    if value is None:
        raise ValueError("this song was not begun")
    return value


def _check_stream(backbone: Backbone, tokens_S: Tensor, num_frames_max: int) -> None:
    """Refuse what cannot be read, before any work is done."""
    num_prompt = len(tokens_S)
    if num_prompt == 0:
        raise TokenError("the prompt is empty")
    check_ids(tokens_S, backbone.config.layout.text_vocab_size)
    if num_prompt + COARSE_LEVELS * num_frames_max > backbone.max_positions:
        most = max(0, (backbone.max_positions - num_prompt) // COARSE_LEVELS)
        raise RequestError(
            f"{num_frames_max} frames after a prompt of {num_prompt} tokens are too long: "
            f"this model can write {most} frames after it"
        )
