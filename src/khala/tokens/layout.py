"""The joint alphabet: text and control ids first, then one block of ids per residual level.

codes   integers in [0, codebook_size), one per level and frame    (what the codec speaks)
tokens  ids in the joint vocabulary                                (what the models speak)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from khala.errors import ConfigError, RequestError, TokenError

COARSE_LEVELS = 2
"""Levels the backbone writes, 0 and 1; super-resolution adds the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlTokens:
    """Ids that give a prompt its shape. User text can never produce one of them."""

    begin_of_text: int
    """Always the first id of a prompt."""

    end_of_text: int
    """Ends a song: the backbone stops here."""

    begin_lyrics: int
    """Stands before the lyrics."""

    end_line: int
    """Ends a line of lyrics; one more stands between ``begin_lyrics`` and the first line."""

    separator: int
    """Ends a field of the prompt."""

    end_of_prompt: int
    """Ends the text of the prompt."""

    begin_audio: int
    """Always the last id of a prompt; super-resolution writes its level marker over it."""

    durations: tuple[int, ...]
    """Id of a duration of n units, at index n. Unit 0 has an id but is never asked for."""

    duration_unit_s: float
    """Seconds in one unit of duration."""

    def __post_init__(self) -> None:
        ids = self.ids()
        if len(set(ids)) != len(ids) or min(ids) < 0:
            raise ConfigError(f"control ids must be different and not negative: {ids}")
        if len(self.durations) < 2:
            raise ConfigError("durations must hold the ids of 0 units and at least 1 unit")
        if not (math.isfinite(self.duration_unit_s) and self.duration_unit_s > 0):
            raise ConfigError(f"duration_unit_s must be positive: {self.duration_unit_s}")

    def ids(self) -> tuple[int, ...]:
        """Return every id of the table."""
        return (
            self.begin_of_text,
            self.end_of_text,
            self.begin_lyrics,
            self.end_line,
            self.separator,
            self.end_of_prompt,
            self.begin_audio,
            *self.durations,
        )

    @property
    def max_duration_s(self) -> float:
        """Longest duration that a prompt can name."""
        return (len(self.durations) - 1) * self.duration_unit_s

    def duration_id(self, duration_s: float) -> int:
        """Return the id of the nearest unit, halves up, at least one unit.

        Only the model's hint is rounded: the engine stops at the exact figure of the request.

        Raises:
            RequestError: longer than ``max_duration_s``.
        """
        if not 0 < duration_s <= self.max_duration_s:
            raise RequestError(
                f"duration_s is {duration_s:g}: this model makes songs of up to "
                f"{self.max_duration_s:g} seconds"
            )
        return self.durations[max(1, math.floor(duration_s / self.duration_unit_s + 0.5))]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLayout:
    """Where each kind of id lives.

    Ids below ``first_control_id`` are text, ids from ``text_vocab_size`` on are audio; between
    them are control ids, and at its upper end one marker per level, counted downwards.
    """

    text_vocab_size: int
    """Ids below this are text, control and marker ids."""

    control: ControlTokens

    codebook_size: int = 1024
    """Codes per level."""

    num_levels: int = 64
    """Residual levels; level 0 is the coarsest."""

    def __post_init__(self) -> None:
        if min(self.text_vocab_size, self.codebook_size, self.num_levels) < 1:
            raise ConfigError(f"every size of a TokenLayout must be positive: {self}")
        if max(self.control.ids()) >= self.marker_id(self.num_levels - 1):
            raise ConfigError(
                f"text_vocab_size {self.text_vocab_size} has no room for {self.num_levels} level "
                f"markers above control id {max(self.control.ids())}"
            )

    @property
    def first_control_id(self) -> int:
        """Text of a user stays below this id."""
        return min(self.control.ids())

    def first_id(self, level: int) -> int:
        """Return the id of code 0 at ``level``."""
        self._check(level)
        return self.text_vocab_size + level * self.codebook_size

    def window(self, level: int) -> tuple[int, int]:
        """Return the half-open range of ids of ``level``."""
        first = self.first_id(level)
        return first, first + self.codebook_size

    def vocab_size(self, num_levels: int) -> int:
        """Return how many ids a model needs that speaks the first ``num_levels`` levels."""
        if not 0 <= num_levels <= self.num_levels:
            raise TokenError(f"{num_levels} levels: 0 to {self.num_levels} are allowed")
        return self.text_vocab_size + num_levels * self.codebook_size

    def marker_id(self, level: int) -> int:
        """Return the id that tells super-resolution to write ``level``."""
        self._check(level)
        return self.text_vocab_size - 1 - level

    def _check(self, level: int) -> None:
        if not 0 <= level < self.num_levels:
            raise TokenError(f"level {level}: 0 to {self.num_levels - 1} are allowed")


def published_layout() -> TokenLayout:
    """Return the alphabet of the published Khala models, on the Llama 3.1 tokenizer.

    Durations are whole minutes; the ids of 0, 1 and 2 minutes lie apart from the others because
    they are the tokenizer's reserved tokens in order, and named tokens lie between those.
    """
    return TokenLayout(
        text_vocab_size=128_256,
        control=ControlTokens(
            begin_of_text=128_000,
            end_of_text=128_001,
            begin_lyrics=128_006,
            end_line=128_007,
            separator=128_008,
            end_of_prompt=128_009,
            begin_audio=128_010,
            durations=(128_002, 128_003, 128_005, *range(128_011, 128_019)),
            duration_unit_s=60.0,
        ),
    )


def nano_layout() -> TokenLayout:
    """Return the alphabet of the bundled model: text as UTF-8 bytes, durations of 2 seconds."""
    return TokenLayout(
        text_vocab_size=512,
        control=ControlTokens(
            begin_of_text=256,
            end_of_text=257,
            begin_lyrics=258,
            end_line=259,
            separator=260,
            end_of_prompt=261,
            begin_audio=262,
            durations=tuple(range(263, 354)),
            duration_unit_s=2.0,
        ),
    )
