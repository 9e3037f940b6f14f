"""What the published application does to text: ``compat="published"`` and nothing else uses it.

The table changes what a user wrote, the clamp cuts it, and durations become whole minutes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from khala.errors import RequestError
from khala.song import SongRequest
from khala.tokens.layout import TokenLayout
from khala.tokens.prompt import INSTRUMENTAL, join_fields, lines_ids, text_ids
from khala.tokens.text import TextTokenizer

MAX_MINUTES = 10
"""Longest duration that the published application asks for; the shortest is 1."""

_FULL_WIDTH = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5B) if code != 0xFF40}
_PUNCTUATION = {
    "\u3002": ".",
    "\u3010": "[",
    "\u3011": "]",
    "\u3016": "[",
    "\u3017": "]",
    "\u300c": '"',
    "\u300d": '"',
    "\u300e": "'",
    "\u300f": "'",
    "\u300a": "<",
    "\u300b": ">",
    "\u3008": "<",
    "\u3009": ">",
    "\u3001": ",",
    "\u060c": ",",
    "\u201c": '"',
    "\u201d": '"',
    "\u2018": "'",
    "\u2019": "'",
    "\u2014\u2014": "-",
    "\u2014": "-",
    "\u2013": "-",
    "\u2015": "-",
    "\ufe63": "-",
    "\u2026": "...",
    "\ufe4f": "_",
    "\uff40": "'",
    "\uff5e": "~",
    "\u2236": ":",
    "\u2032": "'",
    "\u02bc": "'",
    "\u00b4": "'",
    "^": "'",
    "\u00a8": '"',
    "\u00b7": ".",
    "\u00d7": "x",
    "\u00f7": "/",
    "|": "-",
    # The bytes of a right quotation mark, each read as a character of its own.
    "\u00e2\u0080\u0099": "'",
}
_LOOKALIKES = dict(
    zip(
        "\u0435\u0430\u043e\u0440\u0441\u0443\u0445"
        "\u0391\u0392\u0395\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u0396",
        "eaopcyxABEHIKMNOPTYXZ",
        strict=True,
    )
)
_SPACES = dict.fromkeys("\u30fb\u00a0\u3000\u2005\u2006\u2028", " ")
_DROPPED = dict.fromkeys("\u200b\ufeff\u202a\u202c\u180e\ue3ac\u2605", "")
REPLACEMENTS = _FULL_WIDTH | _PUNCTUATION | _LOOKALIKES | _SPACES | _DROPPED
"""The 162 entries. No entry is the beginning of another but the dash, whose pair goes first."""

_PATTERN = re.compile("|".join(map(re.escape, sorted(REPLACEMENTS, key=len, reverse=True))))


def clean_published(lyrics: str) -> str:
    """Return vocal lyrics as the published application sent them on: one pass, then stripped."""
    return _PATTERN.sub(lambda found: REPLACEMENTS[found[0]], lyrics).strip()


def clamp_published(ids: Sequence[int], max_tokens: int) -> list[int]:
    """Return a prompt cut as published: its first ``max_tokens - 1`` ids and its last one.

    Raises:
        RequestError: ``max_tokens`` leaves no room for both.
    """
    if max_tokens < 2:
        raise RequestError(f"max_tokens is {max_tokens}: at least 2 are needed")
    if len(ids) <= max_tokens:
        return list(ids)
    return [*ids[: max_tokens - 1], ids[-1]]


def published_minutes(duration_s: float) -> int:
    """Return the whole minutes that the published application would ask for, halves up."""
    return min(max(math.floor(duration_s / 60 + 0.5), 1), MAX_MINUTES)


def published_prompt(
    request: SongRequest,
    layout: TokenLayout,
    tokenizer: TextTokenizer,
    *,
    describe: bool = True,
) -> list[int]:
    """Return the ids of a prompt as the published application puts it together, not yet clamped.

    Description and lyrics are only stripped and, for songs, sent through the table; the slot of
    the language is empty. What stands between ``<|`` and ``|>`` was read as control tokens there;
    here no request can hold it.

    Args:
        request: what is asked for.
        layout: the alphabet of the models.
        tokenizer: the text tokenizer of the models.
        describe: False leaves the description out.

    Raises:
        RequestError: the model has no word for that many minutes.
        TokenError: tokenizer and layout do not belong together.
    """
    control = layout.control
    description = request.prompt.strip() if describe else ""
    lyrics_ids: list[int] = []
    if not request.instrumental:
        lyrics_ids = lines_ids(clean_published(request.lyrics).split("\n"), layout, tokenizer)
    return join_fields(
        control,
        text_ids(description, layout, tokenizer),
        text_ids(INSTRUMENTAL if request.instrumental else "", layout, tokenizer),
        lyrics_ids,
        control.duration_id(60.0 * published_minutes(request.duration_s)),
    )
