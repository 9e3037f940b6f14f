"""Lyrics: lines from templates with a given number of syllables, rhyming in pairs.

Each song draws a small pool of words by Zipf-like commonness and writes all its lines from it,
so that a song keeps to its subject and common words come back often.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from khala.errors import CorpusError
from khala.synth.lexicon import FUNCTION, Lexicon, Template, Word, load_lexicon
from khala.synth.phonemes import is_vowel
from khala.synth.score import Section, SongPlan, stream

_POOL = {"N": 16, "NM": 8, "NP": 9, "V": 10, "T": 10, "G": 9, "D": 6, "E": 6, "A": 13, "AV": 9,
         "P": 8}  # fmt: skip
_ATTEMPTS = 300

Line = tuple[Word, ...]


@dataclass(kw_only=True, slots=True)
class LineWriter:
    """Writes the lines of one song; its owner is ``write_lyrics``."""

    lexicon: Lexicon
    rng: random.Random
    held_out: bool
    pool: dict[str, list[Word]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for pos, size in _POOL.items():
            # Prepositions are too few to hold out: they are the grammar of a line.
            held_out = self.held_out and pos != "P"
            weighted = self.lexicon.allowed(pos, held_out=held_out)
            if pos == "P":
                weighted = [(w, 1.0) for w in self.lexicon.by_pos[pos] if not w.held_out]
            self.pool[pos] = _draw(self.rng, weighted, size)

    def _fill(self, template: Template, last: Word | None) -> Line | None:
        out: list[Word] = []
        taken: set[str] = set()
        for i, token in enumerate(template.tokens):
            if not token.startswith("{"):
                out.append(self.lexicon.words[token])
                continue
            if last is not None and i == len(template.tokens) - 1:
                word = last
            else:
                word = self.rng.choice(self.pool[token[1:-1]])
            if word.text in taken:
                return None
            taken.add(word.text)
            out.append(word)
        for i in range(len(out) - 1):
            if out[i].text == "a" and is_vowel(out[i + 1].phonemes[0]):
                out[i] = self.lexicon.words["an"]
        return tuple(out)

    def line(self, num_syllables: int, *, rhyme: Line | None = None) -> Line:
        """A new line of exactly ``num_syllables``; it rhymes with ``rhyme`` where words allow."""
        if rhyme is not None:
            for partners in self._partners(rhyme[-1]):
                found = self._search(num_syllables, partners)
                if found is not None:
                    return found
        for _ in range(20):
            found = self._search(num_syllables, None)
            if found is not None:
                return found
        raise CorpusError(f"no template gives a line of {num_syllables} syllables")

    def _search(self, num_syllables: int, partners: list[tuple[str, Word]] | None) -> Line | None:
        templates = self.lexicon.templates
        for _ in range(_ATTEMPTS):
            template, last = self.rng.choice(templates), None
            if partners is not None:
                pos, last = self.rng.choice(partners)
                if template.tokens[-1] != f"{{{pos}}}":
                    continue
            line = self._fill(template, last)
            if line is None or sum(w.num_syllables for w in line) != num_syllables:
                continue
            text = " ".join(w.text for w in line)
            if text not in self.used:
                self.used.add(text)
                return line
        return None

    def _partners(self, word: Word) -> list[list[tuple[str, Word]]]:
        """Words to end a rhyming line with: perfect rhymes, then those that share the vowel."""
        perfect: list[tuple[str, Word]] = []
        vowel_only: list[tuple[str, Word]] = []
        for pos, words in self.lexicon.by_pos.items():
            if pos in (FUNCTION, "P"):
                continue
            for other in words:
                if other.held_out != self.held_out or other.text == word.text:
                    continue
                if other.rhyme == word.rhyme:
                    perfect.append((pos, other))
                elif other.rhyme[0] == word.rhyme[0] and len(other.rhyme) == len(word.rhyme):
                    vowel_only.append((pos, other))
        return [p for p in (perfect, vowel_only) if p]


def _draw(rng: random.Random, weighted: list[tuple[Word, float]], size: int) -> list[Word]:
    """Weighted sample without replacement (Efraimidis and Spirakis)."""
    keyed = sorted(((rng.random() ** (1.0 / weight), word.text, word) for word, weight in weighted))
    return [word for _, _, word in keyed[-size:]]


def write_lyrics(plan: SongPlan, syllables: dict[str, tuple[int, int]]) -> dict[str, list[Line]]:
    """The lines of every sung section, by section name; choruses are written once.

    ``syllables`` gives, for each kind of section, the syllables of its odd and even lines.
    """
    rng = stream(plan.seed, plan.index, "lyrics")
    writer = LineWriter(lexicon=load_lexicon(), rng=rng, held_out=plan.split == "test_words")
    alternate = rng.random() < 0.4
    chorus: dict[int, list[Line]] = {}
    out: dict[str, list[Line]] = {}
    for section in plan.sections:
        if section.num_lines == 0:
            continue
        if section.kind == "chorus":
            if section.num_lines not in chorus:
                chorus[section.num_lines] = _stanza(writer, section, syllables, alternate)
            out[section.name] = chorus[section.num_lines]
        else:
            out[section.name] = _stanza(writer, section, syllables, alternate)
    return out


def _stanza(
    writer: LineWriter, section: Section, syllables: dict[str, tuple[int, int]], alternate: bool
) -> list[Line]:
    counts = syllables[section.kind]
    lines: list[Line] = []
    for i in range(section.num_lines):
        back = 2 if alternate and section.num_lines == 4 else 1
        rhymes = i >= 2 if back == 2 else i % 2 == 1
        if section.kind == "chorus" and i == 2 and section.num_lines == 4:
            # The hook comes back in the middle of a long chorus.
            lines.append(lines[0])
            continue
        lines.append(writer.line(counts[i % 2], rhyme=lines[i - back] if rhymes else None))
    return lines


def lyrics_text(plan: SongPlan, lines: dict[str, list[Line]]) -> str:
    """Lyrics with section tags, a blank line between sections; empty for an instrumental."""
    if plan.voice is None:
        return ""
    all_tags = stream(plan.seed, plan.index, "tags").random() < 0.5
    blocks: list[str] = []
    for section in plan.sections:
        sung = lines.get(section.name, [])
        if sung or all_tags:
            text = [" ".join(w.text for w in line) for line in sung]
            blocks.append("\n".join([f"[{section.name}]", *text]))
    return "\n\n".join(blocks)
