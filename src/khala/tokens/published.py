"""What the published application did to text, for checkpoints trained behind it.

Nothing here is used unless compatibility is asked for by name: the table changes what a user
wrote, and the clamp cuts it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from khala.errors import RequestError

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
