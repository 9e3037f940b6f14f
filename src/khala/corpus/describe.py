"""What is known of a song, from its manifest and from the texts beside it; or why it is refused."""

from __future__ import annotations

import json
import re
import unicodedata
import zlib
from pathlib import Path
from typing import Any

from khala.corpus.places import Place
from khala.corpus.songs import SPLITS, CorpusSong, song_from_truth
from khala.corpus.sources import KEYS, Item
from khala.errors import CorpusError

__all__ = ["describe_item"]

HELD_OUT_EVERY = 40
"""One song in so many is kept for validation, chosen by its name and not by chance."""

MAX_TEXT_BYTES = 1 << 20
MAX_CHARACTERS = 50_000
LRC_TIME = re.compile(r"\s*[\[<]\d+:\d+(?:[.:]\d+)?[\]>]\s*")
LRC_HEAD = re.compile(r"\[(?:ar|al|ti|au|by|re|ve|length|offset|la|tool|#)\s*:[^\]]*\]", re.I)
ALLOWED_CONTROLS = frozenset("\n\r\t")
MOJIBAKE = re.compile(r"[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac[\u0090-\u2122]")
"""UTF-8 that was read as Latin-1 or Windows-1252 and written again."""


def describe_item(place: Place, item: Item) -> CorpusSong:
    """Return a song's texts; its duration is 0, as nothing has been decoded.

    Raises:
        CorpusError: a text is no UTF-8, is damaged, says what nobody knows, or contradicts another.
    """
    if "truth" in item.sidecars:
        truth = _object(place, item.sidecars["truth"], limit=16 * MAX_TEXT_BYTES)
        name = item.sidecars["truth"]
        return song_from_truth(truth, name, audio={"mix": Path(item.audio)}, truth_path=Path(name))
    known = {**_beside(place, item), **item.given}
    lyrics = _text(known.get("lyrics", ""), f"{item.id}: lyrics").strip()
    instrumental = known.get("instrumental", not lyrics)
    if not isinstance(instrumental, bool):
        raise CorpusError(f"{item.id}: instrumental must be true or false, not {instrumental!r}")
    if not instrumental and not lyrics:
        raise CorpusError(f"{item.id} is not instrumental and has no lyrics: add a .txt beside it")
    split = str(known.get("split", _split_of(item.id)))
    if split not in SPLITS:
        raise CorpusError(f"{item.id}: no split {split!r}: one of {', '.join(SPLITS)}")
    return CorpusSong(
        id=item.id,
        split=split,
        duration_s=0.0,
        tags=_tags(known.get("tags", []), item.id),
        description=_text(known.get("description", ""), f"{item.id}: description"),
        lyrics="" if instrumental else lyrics,
        instrumental=instrumental,
        language=_text(known.get("language", "en"), f"{item.id}: language"),
        audio={"mix": Path(item.audio)},
        truth_path=None,
    )


def _beside(place: Place, item: Item) -> dict[str, Any]:
    """Read the texts beside a song: what the JSON says is not looked for elsewhere."""
    known: dict[str, Any] = {}
    sidecars = item.sidecars
    if "json" in sidecars:
        known = _object(place, sidecars["json"])
        if known.keys() - KEYS:
            raise CorpusError(f"{sidecars['json']} may hold only {', '.join(sorted(KEYS))}")
    if "lyrics" not in known and "lyrics" in sidecars:
        known["lyrics"] = _read(place, sidecars["lyrics"])
    elif "lyrics" not in known and "lrc" in sidecars:
        known["lyrics"] = without_times(_read(place, sidecars["lrc"]))
    if "tags" not in known and "tags" in sidecars:
        known["tags"] = _read(place, sidecars["tags"]).replace("\n", ",")
    return known


def without_times(text: str) -> str:
    """Return the lyrics of an .lrc file: no times, no heads such as [ar:...]; section tags stay."""
    lines = [LRC_TIME.sub(" ", LRC_HEAD.sub("", line)).strip() for line in text.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _object(place: Place, name: str, *, limit: int = MAX_TEXT_BYTES) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        found = json.loads(_read(place, name, limit=limit))
    except ValueError as error:
        raise CorpusError(f"{name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CorpusError(f"{name} must hold a JSON object")
    return found


def _read(place: Place, name: str, *, limit: int = MAX_TEXT_BYTES) -> str:
    """Read a text, which must be UTF-8."""
    content = place.read(name)
    if len(content) > limit:
        raise CorpusError(f"{name} is over {limit >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = content[error.start]
        raise CorpusError(
            f"{name} is not UTF-8: byte 0x{found:02x} at {error.start} (as in Latin-1); save it as "
            "UTF-8"
        ) from error


def _text(value: object, what: str) -> str:
    """Return a text that can be one."""
    if not isinstance(value, str):
        raise CorpusError(f"{what} must be a text, not {type(value).__name__}")
    if len(value) > MAX_CHARACTERS:
        raise CorpusError(f"{what} has {len(value)} characters; allowed: {MAX_CHARACTERS}")
    strange = [one for one in value if unicodedata.category(one) in ("Cc", "Cs", "Co", "Cn")]
    strange = [one for one in strange if one not in ALLOWED_CONTROLS]
    if strange:
        raise CorpusError(f"{what} holds the character U+{ord(strange[0]):04X}, which is no text")
    if MOJIBAKE.search(value):
        shown = MOJIBAKE.search(value)
        assert shown is not None
        raise CorpusError(
            f"{what} holds {value[max(0, shown.start() - 8) : shown.end() + 8]!r}: UTF-8 that was "
            "once read as Latin-1"
        )
    return value


def _tags(value: object, song_id: str) -> tuple[str, ...]:
    """Return tags given as a list, or as one text with commas."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list):
        raise CorpusError(f"{song_id}: tags must be a list or a text, not {type(value).__name__}")
    return tuple(tag for one in listed if (tag := _text(one, f"{song_id}: a tag").strip()))


def _split_of(name: str) -> str:
    """Choose a song's split by its name."""
    return "test" if zlib.crc32(name.encode()) % HELD_OUT_EVERY == 0 else "train"
