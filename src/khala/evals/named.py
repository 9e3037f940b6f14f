"""Which instruments and which style a request names, and whether they are heard.

Names are those the tagger knows, found as whole words; nothing else is guessed. What several of
its instruments are ("guitar", "bass") may be named too, and any of them will do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from khala.evals.tagger import HeardTags, TaggerConfig
from khala.evals.wanted import Wanted

__all__ = ["names_in", "score_names"]

DENIED = re.compile(r"\b(?:no|not|without)(?:\s+(?:any|a|an))?\s*$", re.IGNORECASE)
JOINED = re.compile(r"\s+(?:and|or|nor)\s+", re.IGNORECASE)


def names_in(prompt: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that a prompt says, each once, in order.

    The longest one counts ("electric piano" is no piano), and two that touch ("bass guitar") are
    together something else. What a prompt denies ("no drums or bass") is not said, even where it
    is said elsewhere.
    """
    longest_first = sorted(names, key=len, reverse=True)
    ways = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in longest_first)
    found = list(re.finditer(rf"(?<![\w&-])(?:{ways})(?![\w&-])", prompt, re.IGNORECASE))
    said: dict[str, None] = {}
    denied: set[str] = set()
    is_denied, end = False, 0
    for place, match in enumerate(found):
        name = " ".join(match[0].lower().split())
        before = prompt[end : match.start()] if place else prompt[: match.start()]
        is_denied = bool(DENIED.search(before)) or (
            is_denied and JOINED.fullmatch(before) is not None
        )
        after = prompt[match.end() : found[place + 1].start()] if found[place + 1 :] else "."
        touches = not after.strip() or (place > 0 and not before.strip())
        end = match.end()
        if is_denied:
            denied.add(name)
        elif not touches:
            said[name] = None
    return tuple(name for name in said if name not in denied)


def score_names(heard: HeardTags, wanted: Wanted, config: TaggerConfig) -> dict[str, Any]:
    """Return what a tagger hears beside what was wanted of it; None where nothing was named.

    Precision is the share of the instruments heard that were wanted, recall the share of those
    wanted that are heard. A request need not name everything that may play: its precision is for
    comparing models on the same requests.
    """
    kinds = _kinds(config.instruments)
    if wanted.instruments is not None:
        named = tuple(name for name in wanted.instruments if name in config.instruments)
    else:
        named = names_in(wanted.prompt, kinds)
    allowed = {name for one in named for name in kinds[one]}
    num_right = sum(name in allowed for name in heard.instruments)
    num_found = sum(not kinds[one].isdisjoint(heard.instruments) for one in named)
    style = wanted.style
    if style is None:
        styles = names_in(wanted.prompt, config.styles)
        style = styles[0] if len(styles) == 1 else None
    return {
        "instruments_heard": list(heard.instruments),
        "wanted_instruments": list(named) or None,
        "instruments_precision": num_right / len(heard.instruments)
        if named and heard.instruments
        else None,
        "instruments_recall": num_found / len(named) if named else None,
        "style_heard": heard.style,
        "wanted_style": style,
        "style_right": None if style not in config.styles else heard.style == style,
    }


def _kinds(instruments: Iterable[str]) -> Mapping[str, frozenset[str]]:
    """Return which instruments each name allows: its own, or all that end in it ("guitar")."""
    found = {name: {name} for name in instruments}
    for name in list(found):
        last = name.split()[-1]
        if last not in instruments:
            found.setdefault(last, set()).add(name)
    return {
        name: frozenset(allowed)
        for name, allowed in found.items()
        if name in instruments or len(allowed) > 1
    }
