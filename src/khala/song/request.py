"""What a user asks for, and what is allowed: every limit of a request stands in this file."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from khala.errors import RequestError

MAX_LYRICS_CHARS = 5_000
MAX_PROMPT_CHARS = 1_000
MIN_DURATION_S, MAX_DURATION_S = 1.0, 600.0
MIN_LEVELS, MAX_LEVELS = 2, 64
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 2.0
MAX_TOP_K = 1_024
MIN_GUIDANCE_SCALE, MAX_GUIDANCE_SCALE = 1.0, 10.0
MAX_COMBINING_MARKS = 8
"""Marks on one letter; real writing needs fewer, more is an attack on whoever shows the text."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_TOKEN = re.compile(r"<\|[^|\n]*\|>")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}")
# Soft hyphen, Arabic letter mark, Mongolian vowel separator, zero width and bidirectional marks,
# the byte order mark and the invisible tag characters: nothing a singer could sing.
_INVISIBLE = dict.fromkeys(
    [
        *(0xAD, 0x61C, 0x180E, 0xFEFF),
        *range(0x200B, 0x2010),
        *range(0x202A, 0x202F),
        *range(0x2060, 0x2070),
        *range(0xE0000, 0xE0080),
    ]
)


def clean_text(text: str) -> str:
    """Drop invisible characters and compose the rest (NFC): same look, same text."""
    return unicodedata.normalize("NFC", text.translate(_INVISIBLE))


def check_text(name: str, text: str) -> None:
    """Refuse text that no song can be made of; ``name`` is the field the message names.

    Raises:
        RequestError: control characters, lone surrogates, a control token written out, or more
            than eight marks on one letter.
    """
    if found := _CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise RequestError(
            f"{name} has the control character U+{ord(found[0]):04X} in line {line}: "
            "only visible text, line breaks and tabs are allowed"
        )
    visible = clean_text(text)
    if found := _CONTROL_TOKEN.search(visible):
        raise RequestError(
            f"{name} has {shown(found[0])}: text between <| and |> is reserved for the model's "
            "control tokens, anything else is allowed"
        )
    num_marks = 0
    for character in visible if not visible.isascii() else "":
        is_mark = unicodedata.category(character).startswith("M")
        num_marks = num_marks + 1 if is_mark else 0
        if num_marks > MAX_COMBINING_MARKS:
            raise RequestError(
                f"{name} has more than {MAX_COMBINING_MARKS} combining marks on one letter: "
                f"at most {MAX_COMBINING_MARKS} are allowed"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SongRequest:
    """What a user asks for. Every field is checked; nothing is clipped or filled in.

    Raises:
        RequestError: one line that names the field, the value and what is allowed.
    """

    prompt: str = ""
    """Tags ("pop, piano") or a description; may be empty."""

    lyrics: str = ""
    """Words with section tags in any common dialect; empty exactly when ``instrumental``."""

    duration_s: float = 30.0
    """Wanted length: the model is told it in the nearest unit of its alphabet, may end the song
    from 0.95 times this on, and is stopped at 1.05 times this."""

    instrumental: bool = False
    """No voice and no lyrics."""

    language: str = "en"
    """Language of the lyrics as a BCP 47 code. Checked and kept with the song; the models do not
    read it, because songs leave the language slot of their prompt empty (``build_prompt``)."""

    seed: int = 0
    """Same request, same seed, same models: same song."""

    levels: int = 64
    """How many residual levels to finish: 2 is a sketch, 64 the master."""

    temperature: float = 1.0
    """Of the backbone's sampling."""

    top_k: int = 80
    """Candidates kept by the backbone; 1 is greedy."""

    guidance_scale: float | None = None
    """How strongly the backbone follows prompt and words: 1 is the model by itself, more goes
    further the way they point; None what the model was measured with."""

    superres_top_k: int | None = None
    """Candidates kept by super-resolution; 1 is greedy, None what the model was measured with."""

    def __post_init__(self) -> None:
        _check_length("prompt", self.prompt, MAX_PROMPT_CHARS)
        _check_length("lyrics", self.lyrics, MAX_LYRICS_CHARS)
        check_text("prompt", self.prompt)
        check_text("lyrics", self.lyrics)
        if not isinstance(self.instrumental, bool):
            raise RequestError(f"instrumental is {shown(self.instrumental)}: true or false")
        has_words = bool(clean_text(self.lyrics).strip())
        if not has_words and not self.instrumental:
            raise RequestError(
                f"lyrics are empty: give 1 to {MAX_LYRICS_CHARS} characters, or ask for an "
                "instrumental"
            )
        if has_words and self.instrumental:
            raise RequestError(
                f"lyrics are {len(self.lyrics)} characters long, but an instrumental has none: "
                "leave out the lyrics or the instrumental"
            )
        if not isinstance(self.language, str) or not _LANGUAGE.fullmatch(self.language):
            raise RequestError(
                f"language is {shown(self.language)}: a code such as 'en' or 'zh-Hant' is allowed"
            )
        for name, low, high in (
            ("duration_s", MIN_DURATION_S, MAX_DURATION_S),
            ("temperature", MIN_TEMPERATURE, MAX_TEMPERATURE),
        ):
            object.__setattr__(self, name, _number(name, getattr(self, name), low, high))
        check_integer("seed", self.seed, 0, 2**63 - 1)
        check_integer("levels", self.levels, MIN_LEVELS, MAX_LEVELS)
        check_integer("top_k", self.top_k, 1, MAX_TOP_K)
        if self.guidance_scale is not None:
            low, high = MIN_GUIDANCE_SCALE, MAX_GUIDANCE_SCALE
            scale = _number("guidance_scale", self.guidance_scale, low, high)
            object.__setattr__(self, "guidance_scale", scale)
        if self.superres_top_k is not None:
            check_integer("superres_top_k", self.superres_top_k, 1, MAX_TOP_K)

    def to_dict(self) -> dict[str, Any]:
        """Return every field as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a request from plain values; a field left out has its default.

        Raises:
            RequestError: a key that is no field (the nearest name is given), or a bad value.
        """
        names = [one.name for one in fields(cls)]
        for key in values:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(names)}"
                raise RequestError(f"{shown(key)} is not a field of a song request: {hint}")
        return cls(**values)


def _check_length(name: str, text: object, max_chars: int) -> None:
    if not isinstance(text, str):
        raise RequestError(f"{name} is {shown(text)}: it must be text")
    if len(text) > max_chars:
        raise RequestError(
            f"{name} has {len(text)} characters: at most {max_chars} characters are allowed"
        )


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Refuse anything but a whole number in [low, high]; the message names all four."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or not low <= value <= high:  # type: ignore[operator]
        raise RequestError(
            f"{name} is {shown(value)}: a whole number from {low} to {high} is allowed"
        )


def _number(name: str, value: object, low: float, high: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        unit = " seconds" if name.endswith("_s") else ""
        raise RequestError(
            f"{name} is {shown(value)}: a number from {low:g} to {high:g}{unit} is allowed"
        )
    return float(value)  # type: ignore[arg-type]


def shown(value: object) -> str:
    """Return one short printable line for any value."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    line = ascii(value[:60]) if isinstance(value, str) else ascii(value)
    return line if len(line) <= 60 else f"{line[:57]}..."
