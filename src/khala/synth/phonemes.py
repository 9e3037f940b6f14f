"""The phoneme inventory of the demo singers: 41 symbols, ARPAbet plus a schwa and silence.

The ground truth of a song, the lexicon and the voice banks all speak this alphabet; the names
that espeak-ng uses are turned into it here and nowhere else.
"""

from __future__ import annotations

from itertools import pairwise

from khala.errors import CorpusError

SILENCE = "SIL"

VOWELS: tuple[str, ...] = (
    "AA", "AE", "AH", "AO", "AW", "AX", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW",
)  # fmt: skip
CONSONANTS: tuple[str, ...] = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T",
    "TH", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
PHONEMES: tuple[str, ...] = (SILENCE, *VOWELS, *CONSONANTS)

DIPHTHONGS: frozenset[str] = frozenset({"AW", "AY", "EY", "OW", "OY"})
UNVOICED: frozenset[str] = frozenset({"CH", "F", "HH", "K", "P", "S", "SH", "T", "TH", SILENCE})
SONORANTS: frozenset[str] = frozenset({"L", "M", "N", "NG", "R", "W", "Y"})
STOPS: frozenset[str] = frozenset({"B", "CH", "D", "G", "JH", "K", "P", "T"})

_VOWEL_SET = frozenset(VOWELS)

# Clusters that may open an English syllable; other clusters are split.
_ONSETS: frozenset[tuple[str, ...]] = frozenset(
    (first, second)
    for second, firsts in {
        "L": ("P", "B", "K", "G", "F", "S"),
        "R": ("P", "B", "T", "D", "K", "G", "F", "TH", "SH"),
        "W": ("T", "D", "K", "S"),
        "Y": ("P", "B", "T", "D", "K", "F", "M", "V", "HH"),
    }.items()
    for first in firsts
) | frozenset(
    [("S", p) for p in ("P", "T", "K", "M", "N")]
    + [("S", "P", "R"), ("S", "P", "L"), ("S", "T", "R"), ("S", "K", "R"), ("S", "K", "W")]
)

# espeak-ng mnemonic -> our phonemes with their share of its time.
_FROM_ESPEAK: dict[str, tuple[tuple[str, float], ...]] = {
    "a": (("AE", 1.0),), "aa": (("AE", 1.0),), "A:": (("AA", 1.0),), "A": (("AA", 1.0),),
    "0": (("AA", 1.0),), "0#": (("AA", 1.0),), "O:": (("AO", 1.0),), "O": (("AO", 1.0),),
    "O2": (("AO", 1.0),), "r-": (("R", 1.0),),
    "V": (("AH", 1.0),), "@": (("AX", 1.0),), "@2": (("AX", 1.0),), "@5": (("AX", 1.0),),
    "a#": (("AX", 1.0),), "E": (("EH", 1.0),), "E2": (("EH", 1.0),), "E#": (("EH", 1.0),),
    "I": (("IH", 1.0),), "I#": (("IH", 1.0),), "I2": (("IH", 1.0),), "i": (("IY", 1.0),),
    "i:": (("IY", 1.0),), "U": (("UH", 1.0),), "u:": (("UW", 1.0),), "u": (("UW", 1.0),),
    "3": (("ER", 1.0),), "3:": (("ER", 1.0),), "eI": (("EY", 1.0),), "aI": (("AY", 1.0),),
    "aU": (("AW", 1.0),), "OI": (("OY", 1.0),), "oU": (("OW", 1.0),),
    "A@": (("AA", 0.6), ("R", 0.4)), "O@": (("AO", 0.6), ("R", 0.4)),
    "o@": (("AO", 0.6), ("R", 0.4)), "e@": (("EH", 0.6), ("R", 0.4)),
    "i@3": (("IH", 0.6), ("R", 0.4)), "i@": (("IY", 0.6), ("AX", 0.4)),
    "U@": (("UH", 0.6), ("R", 0.4)), "aI3": (("AY", 0.7), ("R", 0.3)),
    "aI@": (("AY", 0.6), ("AX", 0.4)), "@L": (("AX", 0.5), ("L", 0.5)),
    "b": (("B", 1.0),), "d": (("D", 1.0),), "f": (("F", 1.0),), "g": (("G", 1.0),),
    "h": (("HH", 1.0),), "j": (("Y", 1.0),), "k": (("K", 1.0),), "l": (("L", 1.0),),
    "m": (("M", 1.0),), "n": (("N", 1.0),), "N": (("NG", 1.0),), "p": (("P", 1.0),),
    "r": (("R", 1.0),), "s": (("S", 1.0),), "S": (("SH", 1.0),), "t": (("T", 1.0),),
    "t#": (("T", 1.0),), "t2": (("T", 1.0),), "*": (("T", 1.0),), "tS": (("CH", 1.0),),
    "T": (("TH", 1.0),), "D": (("DH", 1.0),), "v": (("V", 1.0),), "w": (("W", 1.0),),
    "z": (("Z", 1.0),), "Z": (("ZH", 1.0),), "dZ": (("JH", 1.0),), "n-": (("AX", 0.3), ("N", 0.7)),
    "m-": (("AX", 0.3), ("M", 0.7)),
}  # fmt: skip

# Marks that only colour the sound before them: their time belongs to it.
_MODIFIERS: frozenset[str] = frozenset({";", "|", "?", "-", "@-"})


def is_vowel(phoneme: str) -> bool:
    """Whether a syllable can be sung on this phoneme."""
    return phoneme in _VOWEL_SET


def from_espeak(mnemonic: str) -> tuple[tuple[str, float], ...] | None:
    """Our phonemes for one espeak-ng mnemonic, with shares of its time that add up to 1.

    None means that the mark colours the phoneme before it and has no sound of its own. Pauses
    come back as silence. Raises ``CorpusError`` for a mnemonic of another language.
    """
    if mnemonic.startswith("_") or mnemonic == "":
        return ((SILENCE, 1.0),)
    if mnemonic in _MODIFIERS:
        return None
    # espeak-ng 1.52 puts the stress before the vowel, 1.51 does not.
    found = _FROM_ESPEAK.get(mnemonic.lstrip("',%="))
    if found is None:
        raise CorpusError(f"espeak-ng gave the phoneme {mnemonic!r}, which American English lacks")
    return found


def syllables(phonemes: tuple[str, ...]) -> list[tuple[int, int]]:
    """Split a word into syllables: spans ``[start, end)`` of its phonemes, longest onset first."""
    nuclei = [i for i, p in enumerate(phonemes) if p in _VOWEL_SET]
    if not nuclei:
        raise CorpusError(f"no vowel to sing in {' '.join(phonemes)!r}")
    starts = [0]
    for left, right in pairwise(nuclei):
        start = right
        while start - 1 > left and (
            start == right or tuple(phonemes[start - 1 : right]) in _ONSETS
        ):
            start -= 1
        if start < right and phonemes[start] == "NG":
            start += 1
        starts.append(start)
    return list(zip(starts, [*starts[1:], len(phonemes)], strict=True))


def rhyme_part(phonemes: tuple[str, ...]) -> tuple[str, ...]:
    """The phonemes that must agree for two words to rhyme.

    From the vowel of the last syllable; a weak last syllable (schwa, er, ing, y) takes the
    syllable before it along, so that *river* rhymes with *shiver* and not with *mother*.
    """
    nuclei = [i for i, p in enumerate(phonemes) if p in _VOWEL_SET]
    start = nuclei[-1]
    tail = phonemes[start:]
    weak = tail[0] in {"AX", "ER", "IH"} or tail == ("IY",)
    if weak and len(nuclei) > 1:
        start = nuclei[-2]
    return phonemes[start:]
