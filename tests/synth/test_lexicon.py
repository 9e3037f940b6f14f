"""Words and phonemes of the demo corpus."""

from __future__ import annotations

import pytest

from khala.errors import CorpusError
from khala.synth.lexicon import load_lexicon
from khala.synth.phonemes import PHONEMES, SILENCE, from_espeak, is_vowel, rhyme_part, syllables


def test_there_are_enough_words_to_learn_from() -> None:
    """With few words a model learns a list instead of a language."""
    words = load_lexicon().words
    assert len(words) >= 1000
    short = sum(word.num_syllables <= 2 for word in words.values())
    assert short / len(words) > 0.85


def test_the_alphabet_is_small_and_without_doubles() -> None:
    """The recogniser and the truth files index this list: a double would mix two sounds up."""
    assert len(PHONEMES) <= 45
    assert len(set(PHONEMES)) == len(PHONEMES)
    assert PHONEMES[0] == SILENCE


def test_every_part_of_speech_keeps_words_back() -> None:
    """Unseen-word songs need verbs and adjectives too, or their lines could not be written."""
    lexicon = load_lexicon()
    for pos in ("N", "NM", "NP", "V", "T", "G", "D", "E", "A", "AV"):
        held_out = lexicon.allowed(pos, held_out=True)
        assert len(held_out) >= 2, pos
        assert len(held_out) < 0.25 * len(lexicon.by_pos[pos]), pos
    share = sum(w.held_out for w in lexicon.words.values()) / len(lexicon.words)
    assert 0.06 < share < 0.14


def test_words_that_hold_sentences_together_are_never_held_out() -> None:
    """Without *the* and *you* a test song would not be made of sentences."""
    words = load_lexicon().words
    assert not any(words[text].held_out for text in ("the", "a", "an", "I", "you", "and", "is"))


@pytest.mark.parametrize(
    ("word", "expected"),
    [("river", ["R IH", "V ER"]), ("singing", ["S IH NG", "IH NG"]), ("heart", ["HH AA R T"]),
     ("stranger", None), ("beautiful", ["B Y UW", "T IY", "F AX L"])],
)  # fmt: skip
def test_syllables_open_with_the_consonants_a_singer_would_give_them(
    word: str, expected: list[str] | None
) -> None:
    """A consonant in the wrong syllable would be sung on the wrong note."""
    phonemes = load_lexicon().words[word].phonemes
    parts = [" ".join(phonemes[a:b]) for a, b in syllables(phonemes)]
    assert " ".join(parts) == " ".join(phonemes)
    assert all(sum(map(is_vowel, part.split())) == 1 for part in parts)
    if expected is not None:
        assert parts == expected


def test_rhymes_sound_alike() -> None:
    """*Light* and *night* must pair, *light* and *love* must not."""
    words = load_lexicon().words
    assert words["light"].rhyme == words["night"].rhyme
    assert words["light"].rhyme != words["love"].rhyme
    assert rhyme_part(("R", "IH", "V", "ER")) == ("IH", "V", "ER")


def test_a_sound_of_another_language_is_an_error() -> None:
    """Guessing a phoneme would poison the ground truth without a trace."""
    with pytest.raises(CorpusError, match="American English"):
        from_espeak("y:")
    with pytest.raises(CorpusError, match="no vowel"):
        syllables(("S", "T"))


def test_every_espeak_phoneme_keeps_its_whole_time() -> None:
    """Shares that do not add up to one would shift every later phoneme of the word."""
    for name in ("A@", "aI3", "@L", "oU", "s", "_:"):
        mapped = from_espeak(name)
        assert mapped is not None
        assert sum(share for _, share in mapped) == pytest.approx(1.0)
        assert all(phoneme in PHONEMES for phoneme, _ in mapped)
    assert from_espeak(";") is None
    assert from_espeak("'oU") == from_espeak("oU")
