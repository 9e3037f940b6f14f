"""The shape of a super-resolution model."""

from __future__ import annotations

from dataclasses import dataclass

from khala.errors import ConfigError
from khala.nn.config import TrunkConfig
from khala.tokens import COARSE_LEVELS, TokenLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperResConfig:
    """A two-sided model that writes one fine level per pass."""

    trunk: TrunkConfig
    """Sizes of the transformer; the backbone's, since training starts from it."""

    layout: TokenLayout
    """Where text, markers and codes live in the vocabulary."""

    max_positions: int
    """Longest stream, prompt and frames together; the published model has 8,192."""

    num_rows: int | None = None
    """Rows of ``embed`` and ``lm_head``; the published weights have 193,920, more than the
    vocabulary, and the rows past it are never read. None: exactly as many as are read."""

    factor_rank: int | None = None
    """None: one full table for all levels, as published. A number: levels 2 and up have low-rank
    tables of this rank (see ``LevelTables``), and ``embed`` and ``lm_head`` end after level 1."""

    sampling_top_k: int = 10
    """Codes kept in sampling where a request does not say; 10 as published. A small model's
    distributions are nearly flat, and 10 codes of 1,024 would be far too few."""

    sampling_temperature: float = 1.0
    """Divides the logits in sampling; 1 as published. A small model spreads its belief too thinly:
    what it draws below 1 can be closer both to the song and to what songs are like."""

    def __post_init__(self) -> None:
        if self.max_positions < 2:
            raise ConfigError(
                f"SuperResConfig.max_positions must be at least 2, not {self.max_positions}"
            )
        if self.layout.num_levels <= COARSE_LEVELS:
            raise ConfigError("SuperResConfig.layout must have at least 3 levels")
        if self.factor_rank is not None and self.factor_rank < 1:
            raise ConfigError(
                f"SuperResConfig.factor_rank must be positive or None, not {self.factor_rank}"
            )
        if self.sampling_top_k < 1:
            raise ConfigError(
                f"SuperResConfig.sampling_top_k must be at least 1, not {self.sampling_top_k}"
            )
        if not 0.0 < self.sampling_temperature <= 2.0:
            raise ConfigError(
                "SuperResConfig.sampling_temperature must be above 0 and at most 2, not "
                f"{self.sampling_temperature}"
            )
        if self.num_rows is not None and self.num_rows < self.num_read_rows:
            raise ConfigError(
                f"SuperResConfig.num_rows ({self.num_rows}) is below the {self.num_read_rows} "
                "rows that are read"
            )

    @property
    def num_read_rows(self) -> int:
        """Rows of the full tables that mean something."""
        full = self.layout.num_levels if self.factor_rank is None else COARSE_LEVELS
        return self.layout.vocab_size(full)
