"""The words that can be sung: pronunciation, parts of speech, commonness, rhyme, held-out share.

``data/lexicon.tsv`` holds one word and part of speech a line with its phonemes, common words
first; ``data/templates.txt`` holds the patterns of the lines.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from khala.errors import CorpusError
from khala.synth.phonemes import PHONEMES, rhyme_part, syllables

FUNCTION = "F"
HELD_OUT_SHARE = 10
"""One content word in this many never occurs outside the test_words split."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it is written and sung."""

    text: str
    phonemes: tuple[str, ...]
    num_syllables: int
    rhyme: tuple[str, ...]
    held_out: bool


@dataclass(frozen=True, slots=True)
class Template:
    """A line of lyrics with gaps: literal words, and parts of speech in braces."""

    tokens: tuple[str, ...]

    @property
    def slots(self) -> tuple[str, ...]:
        """Parts of speech to fill in, in order."""
        return tuple(t[1:-1] for t in self.tokens if t.startswith("{"))


@dataclass(frozen=True, slots=True)
class Lexicon:
    """All words by spelling and by part of speech, and the line templates."""

    words: dict[str, Word]
    by_pos: dict[str, tuple[Word, ...]]
    templates: tuple[Template, ...]

    def allowed(self, pos: str, *, held_out: bool) -> list[tuple[Word, float]]:
        """The words of a part of speech with Zipf-like weights, one side of the split only."""
        return [
            (word, 1.0 / (rank + 6.0))
            for rank, word in enumerate(self.by_pos[pos])
            if word.held_out == held_out
        ]


def _held_out(text: str, parts: set[str]) -> bool:
    if FUNCTION in parts:
        return False
    digest = hashlib.blake2s(f"khala test word {text}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_SHARE == 0


def _data(name: str) -> list[str]:
    text = files("khala.synth").joinpath("data", name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@lru_cache(maxsize=1)
def load_lexicon() -> Lexicon:
    """Read the lexicon that comes with the package. ``CorpusError`` when its parts disagree."""
    sounds: dict[str, tuple[str, ...]] = {}
    parts: dict[str, list[str]] = {}
    for line in _data("lexicon.tsv"):
        text, pos, sound = line.split("\t")
        phonemes = tuple(sound.split())
        if not set(phonemes) <= set(PHONEMES) or sounds.setdefault(text, phonemes) != phonemes:
            raise CorpusError(f"lexicon.tsv: bad pronunciation of {text!r}: {sound}")
        parts.setdefault(pos, []).append(text)
    belongs: dict[str, set[str]] = {}
    for pos, texts in parts.items():
        for text in texts:
            belongs.setdefault(text, set()).add(pos)
    words = {
        text: Word(
            text=text, phonemes=phonemes, num_syllables=len(syllables(phonemes)),
            rhyme=rhyme_part(phonemes), held_out=_held_out(text, belongs[text]),
        )
        for text, phonemes in sounds.items()
    }  # fmt: skip
    templates = tuple(Template(tuple(line.split())) for line in _data("templates.txt"))
    for template in templates:
        for token in template.tokens:
            known = token[1:-1] in parts if token.startswith("{") else token in words
            if not known:
                raise CorpusError(f"templates.txt: {token!r} is neither a word nor a slot")
    by_pos = {pos: tuple(words[t] for t in texts) for pos, texts in parts.items()}
    return Lexicon(words=words, by_pos=by_pos, templates=templates)
