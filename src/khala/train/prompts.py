"""Prompts of prepared songs, as a user would have written them.

A song is asked for by its tags, by its description, by its words alone, or by its length alone;
which one is drawn by address, so that all four work later. The prompt itself is built by
``khala.tokens``, like a user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from khala.corpus import CodesExample
from khala.corpus.order import uniform
from khala.errors import ConfigError, RequestError
from khala.song import SongRequest
from khala.tokens import TextTokenizer, TokenLayout, build_prompt

__all__ = ["PromptConfig", "Prompts", "first_fitting", "partner_lyrics"]

STREAM, SUBSET_STREAM = 0x70726F6D, 0x73756273
TAGS, DESCRIPTION, EMPTY, BARE = "tags", "description", "empty", "bare"


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptConfig:
    """How songs are asked for."""

    description_ratio: float = 0.4
    """Part of the prompts that give the description instead of the tags."""

    empty_ratio: float = 0.1
    """Part of the prompts that give neither."""

    bare_ratio: float = 0.0
    """Part of the prompts that give neither, nor the words, so that the model can be guided
    (https://arxiv.org/abs/2207.12598)."""

    subset_ratio: float = 0.5
    """Part of the prompts by tags that give only some of them, in any order, as users do."""

    max_tokens: int = 2048
    """Longest prompt; songs with a longer one are left out, and that is said."""

    def __post_init__(self) -> None:
        ratios = (self.description_ratio, self.empty_ratio, self.bare_ratio)
        if min(ratios) < 0 or sum(ratios) > 1:
            raise ConfigError("description_ratio, empty_ratio and bare_ratio must be parts of one")
        if not 0 <= self.subset_ratio <= 1:
            raise ConfigError(f"subset_ratio must lie in 0..1, not {self.subset_ratio}")
        if self.max_tokens < 8:
            raise ConfigError(f"max_tokens must be at least 8, not {self.max_tokens}")


class Prompts:
    """Token ids of the prompts of some songs, built once."""

    def __init__(
        self,
        examples: Sequence[CodesExample],
        config: PromptConfig,
        layout: TokenLayout,
        tokenizer: TextTokenizer,
        *,
        seed: int = 0,
    ) -> None:
        self.examples = examples
        self.config = config
        self._layout, self._tokenizer, self._seed = layout, tokenizer, seed
        self._built: dict[tuple[int, str], list[int]] = {}

    def drawn(self, index: int, step: int, part: int) -> list[int]:
        """Return the prompt of a song as it is asked for in this step."""
        value = uniform(self._seed, STREAM, step, part, index)
        for kind, ratio in (
            (EMPTY, self.config.empty_ratio),
            (DESCRIPTION, self.config.description_ratio),
            (BARE, self.config.bare_ratio),
        ):
            if value < ratio:
                return self.ids(index, kind)
            value -= ratio
        if uniform(self._seed, SUBSET_STREAM, step, part, index) < self.config.subset_ratio:
            tags = self._some_tags(index, step, part)
            return self.build(self.examples[index], TAGS, tags=tags)
        return self.ids(index, TAGS)

    def _some_tags(self, index: int, step: int, part: int) -> list[str]:
        """Return at least one tag of a song, if it has any, in a drawn order."""
        tags = self.examples[index].tags
        places = [
            uniform(self._seed, SUBSET_STREAM, step, part, index, place)
            for place in range(len(tags))
        ]
        count = 1 + int(uniform(self._seed, SUBSET_STREAM, step, part, index, -1) * len(tags))
        return [tag for _, tag in sorted(zip(places, tags, strict=True))[:count]]

    def ids(self, index: int, kind: str = TAGS) -> list[int]:
        """Return the prompt of a song by its tags, its description, its words, or its length."""
        if (index, kind) not in self._built:
            self._built[index, kind] = self.build(self.examples[index], kind)
        return self._built[index, kind]

    def build(
        self,
        example: CodesExample,
        kind: str = TAGS,
        lyrics: str | None = None,
        tags: Sequence[str] | None = None,
    ) -> list[int]:
        """Return a prompt, perhaps with other lyrics or other tags.

        Raises:
            RequestError: too long, or nothing that could be asked for.
        """
        texts = {
            TAGS: ", ".join(example.tags if tags is None else tags),
            DESCRIPTION: example.description,
            EMPTY: "",
            BARE: "",
        }
        request = SongRequest(
            prompt=texts[kind],
            lyrics=example.lyrics if lyrics is None else lyrics,
            duration_s=example.duration_s,
            instrumental=example.instrumental,
            language=example.language,
        )
        return build_prompt(
            request,
            self._layout,
            self._tokenizer,
            max_tokens=self.config.max_tokens,
            bare=kind == BARE,
        )

    def longest(self, index: int) -> int | None:
        """Return the length of a song's longest prompt; None if it cannot be asked for."""
        try:
            return max(len(self.ids(index, kind)) for kind in (TAGS, DESCRIPTION, EMPTY))
        except RequestError:
            return None


def first_fitting(prompts: Prompts, num: int, *, room: int, per_frame: int) -> list[CodesExample]:
    """Return the first songs that fit a model with their longest prompt.

    Args:
        prompts: of the songs.
        num: how many are wanted.
        room: positions of the model.
        per_frame: positions of one frame.
    """
    found: list[CodesExample] = []
    for index, example in enumerate(prompts.examples):
        if len(found) == num:
            break
        longest = prompts.longest(index)
        if longest is not None and longest + per_frame * example.num_frames < room:
            found.append(example)
    return found


def partner_lyrics(examples: Sequence[CodesExample]) -> list[str | None]:
    """Return, for each song, the lyrics of another one of the list; None for instrumentals.

    Songs with voices are taken in a ring, so that nobody gets their own words.
    """
    voices = [i for i, example in enumerate(examples) if not example.instrumental]
    partners: list[str | None] = [None] * len(examples)
    for place, index in enumerate(voices):
        other = examples[voices[(place + 1) % len(voices)]].lyrics
        if other != examples[index].lyrics:
            partners[index] = other
    return partners
