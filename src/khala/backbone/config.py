"""The shape of a backbone."""

from __future__ import annotations

from dataclasses import dataclass

from khala.errors import ConfigError
from khala.nn.config import TrunkConfig
from khala.tokens import COARSE_LEVELS, TokenLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """A causal model over text and the two coarse levels."""

    trunk: TrunkConfig
    """Sizes of the transformer."""

    layout: TokenLayout
    """Where text, control tokens and codes live in the vocabulary."""

    max_positions: int
    """Longest stream, prompt and audio together; the published model has 16,384."""

    num_rows: int | None = None
    """Rows of the embedding and of the output matrix; the published weights have 130,432, more
    than the vocabulary, and the rows past it are never read. None: exactly the vocabulary."""

    factor_rank: int | None = None
    """Rank of the tables of the audio levels. Only None, full tables: two levels are few rows,
    and super-resolution starts from copies of them."""

    guidance_scale: float = 1.0
    """How strongly songs follow prompt and words where a request does not say it; 1: the model by
    itself. More needs one trained on bare prompts too (``PromptConfig.bare_ratio``)."""

    def __post_init__(self) -> None:
        if self.max_positions < 4:
            raise ConfigError(
                f"BackboneConfig.max_positions must be at least 4, not {self.max_positions}"
            )
        if self.layout.num_levels < COARSE_LEVELS:
            raise ConfigError("BackboneConfig.layout must have at least 2 levels")
        if self.num_rows is not None and self.num_rows < self.vocab_size:
            raise ConfigError(
                f"BackboneConfig.num_rows ({self.num_rows}) is below the vocabulary of "
                f"{self.vocab_size}"
            )
        if not 1.0 <= self.guidance_scale <= 10.0:
            raise ConfigError(
                f"BackboneConfig.guidance_scale must lie in 1..10, not {self.guidance_scale}"
            )
        if self.factor_rank is not None:
            raise ConfigError("BackboneConfig.factor_rank must be None: its tables are full")

    @property
    def vocab_size(self) -> int:
        """Ids the model may read and write: text, level 0, level 1."""
        return self.layout.vocab_size(COARSE_LEVELS)
