"""What a song was asked to be, and how far what is heard agrees with it.

A request is prose; only what has one meaning is read from it: a tempo in numbers, a key by name,
whether somebody sings, and the names a tagger knows (`khala.evals.named`). The rest ("dreamy",
"90s") is for listeners.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from khala.evals.listening import Heard, tempo_agrees
from khala.evals.tonality import same_key

__all__ = ["Wanted", "agreement"]

DURATION_TOLERANCE = 0.10
SUNG_PER_S = 0.5
"""Phonemes a second from which on somebody sings: the recogniser hears 2.8 in sung songs of the
demo corpus and none in its instrumentals; a chorus or two of a long song is enough."""

TEMPO = re.compile(r"(?<![\d.])(\d{2,3}(?:\.\d+)?) *(?:bpm\b|beats per minute\b)", re.IGNORECASE)
KEY = re.compile(r"\b([A-G])([#b♯♭]|[ -]?sharp|[ -]?flat)? *(major|minor|maj|min)\b", re.IGNORECASE)
RANGE = re.compile(r"\d *(?:bpm *)?(?:[-–—]|\bto\b|\band\b|\bor\b) *$", re.IGNORECASE)
ENDS = re.compile(r" *(?:[,.;:/|)\]]|$)| (?:and|at|or|then|to|with)\b")
ACCIDENTALS = {"♯": "#", "sharp": "#", "♭": "b", "flat": "b"}
NOBODY_SINGS = re.compile(r"\b(?:instrumental|no (?:vocals?|voice|singing))\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What can be checked of a request; None is "not said"."""

    duration_s: float | None = None
    """Requested length."""

    bpm: float | None = None
    """Requested tempo."""

    key: str | None = None
    """Requested key, such as "F# minor"."""

    instrumental: bool | None = None
    """Nobody is to sing."""

    lyrics: str = ""
    """The words to be sung."""

    instruments: tuple[str, ...] | None = None
    """Everything that is to play, where the truth is known; None: what the prompt names."""

    style: str | None = None
    """The style, where the truth is known; None: what the prompt names."""

    prompt: str = ""
    """The request in words: instruments and style are read from it (`khala.evals.named`)."""

    @classmethod
    def of_prompt(
        cls,
        prompt: str,
        *,
        lyrics: str = "",
        instrumental: bool | None = None,
        duration_s: float | None = None,
    ) -> Wanted:
        """Read tempo, key and singing from a prompt; ranges and contradictions are not said."""
        tempi = {
            None if RANGE.search(prompt[: found.start()]) else float(found[1])
            for found in TEMPO.finditer(prompt)
        }
        keys = {_key(*found.groups("")) for found in KEY.finditer(prompt) if _names_a_key(found)}
        if instrumental is None:
            says_so = NOBODY_SINGS.search(prompt) is not None
            instrumental = False if lyrics else (True if says_so else None)
        return cls(
            duration_s=duration_s,
            bpm=tempi.pop() if len(tempi) == 1 else None,
            key=keys.pop() if len(keys) == 1 else None,
            instrumental=instrumental,
            lyrics=lyrics,
            prompt=prompt,
        )


def agreement(
    heard: Heard, wanted: Wanted, phonemes_heard: int | None, *, voice_heard: bool | None = None
) -> dict[str, Any]:
    """Return what was wanted beside whether it is so; None where nothing was said.

    Args:
        heard: the song.
        wanted: its request.
        phonemes_heard: by a recogniser; None without one.
        voice_heard: by a tagger, which is asked where there is no recogniser; None without one.
    """
    bpm, key = wanted.bpm, wanted.key
    sings = voice_heard
    if phonemes_heard is not None:
        sings = phonemes_heard / heard.duration_s >= SUNG_PER_S
    asked = wanted.instrumental
    return {
        "wanted_s": wanted.duration_s,
        "duration_right": None
        if wanted.duration_s is None
        else abs(heard.duration_s / wanted.duration_s - 1) <= DURATION_TOLERANCE,
        "wanted_bpm": bpm,
        "tempo_right": None if bpm is None else tempo_agrees(heard.bpm, bpm, octaves=False),
        "tempo_right_octaves": None if bpm is None else tempo_agrees(heard.bpm, bpm, octaves=True),
        "wanted_key": key,
        "key_right": None if key is None else same_key(heard.key, key),
        "sings": sings,
        "singing_right": None if sings is None or asked is None else sings is not asked,
    }


def _names_a_key(found: re.Match[str]) -> bool:
    """Say whether "A minor" is a key here: "a minor key" and "A major hit" are none."""
    tonic, accidental, _ = found.groups("")
    if tonic not in "Aa" or accidental:
        return True
    is_led_to = found.string[: found.start()].endswith(("in ", "of "))
    return tonic == "A" and (is_led_to or ENDS.match(found.string, found.end()) is not None)


def _key(tonic: str, accidental: str, mode: str) -> str:
    """Spell a key as the tonality estimator does."""
    sign = accidental.strip(" -").lower()
    return f"{tonic.upper()}{ACCIDENTALS.get(sign, sign)} {mode[:3].lower()}or"
