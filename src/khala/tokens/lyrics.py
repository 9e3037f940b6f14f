"""Lyrics in any common dialect of section tags, brought to one form that can be shown back.

    [Verse 1]
    Words of a line

    [Chorus x2 - anthemic]
    Words of another line

The table of dialects stands in docs/tokens.md. Reading is deliberately careful: in round brackets
or without brackets only the name of a section alone is a tag, because singers do sing "(drop it)".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from khala.song import check_text, clean_text

_PATTERNS = {
    "Intro": "intro(?:duction)?|前奏",
    "Verse": "verse|v(?=[ .]?[0-9])|主歌",
    "Pre-Chorus": "pre[ _-]?chorus|导歌|導歌|预副歌",
    "Post-Chorus": "post[ _-]?chorus",
    "Chorus": "chorus|副歌",
    "Refrain": "refrain",
    "Hook": "hook",
    "Bridge": "bridge|middle[ _-]?(?:8|eight)|桥段|橋段",
    "Outro": "outro|尾奏",
    "Coda": "coda",
    "Ending": "ending",
    "End": "end",
    "Instrumental": "instrumental|inst(?:r)?",
    "Interlude": "interlude|间奏|間奏",
    "Solo": "solo",
    "Breakdown": "break[ _-]?down",
    "Break": "break",
    "Build": "build(?:[ _-]?up)?",
    "Drop": "drop",
    "Rap": "rap",
    "Spoken Word": "spoken[ _-]?word",
    "Fade In": "fade[ _-]?in",
    "Fade Out": "fade[ _-]?out",
}
_QUALIFIERS = (
    "final|last|first|second|third|double|half|big|main|short|long|vocal|instrumental|acoustic|"
    "guitar|piano|bass|drums?|synth|organ|sax(?:ophone)?|trumpet|violin|cello|strings?|flute|"
    "harmonica|accordion|keyboard"
)
_NAME = re.compile(
    rf"(?:(?P<qualifier>{_QUALIFIERS})[ _-])?(?:"
    + "|".join(f"(?P<n{index}>{pattern})" for index, pattern in enumerate(_PATTERNS.values()))
    + r")(?![^\W\d_])",
    re.IGNORECASE,
)
_CANONICAL = tuple(_PATTERNS)
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7, "viii": 8}
_GAP = r"[\s_#.:：,(|/–—-]*"
_STOP = r"\s*(?:$|[-–—:：,|/().])"
_NUMBER = re.compile(
    rf"{_GAP}(?P<digits>[0-9]{{1,2}}|[ivIV]{{1,4}})\)?"
    rf"(?={_STOP}|\s*(?:[x×*] ?[0-9]|[0-9]{{1,2}} ?[x×]))"
)
_TIMES = re.compile(
    rf"{_GAP}(?:[x×*] ?(?P<after>[0-9]{{1,2}})|(?P<before>[0-9]{{1,2}}) ?[x×])\)?(?={_STOP})",
    re.IGNORECASE,
)
_SEPARATORS = "-–—:：,|/."
# Names that begin a section even with words or nothing behind them; the others are also words
# that people sing.
_PLAIN = frozenset(
    ("Intro", "Verse", "Pre-Chorus", "Post-Chorus", "Chorus", "Outro", "Instrumental", "Interlude")
)
_INLINE = _PLAIN | {"Refrain", "Hook", "Bridge"}

_SQUARE = re.compile(r"\[([^\[\]]*)\]")
_ROUND = re.compile(r"[({<]([^(){}<>]*)[)}>]:?")
_HEADING = re.compile(r"#{1,6} ?([^#]+?):?")
_FRAMED = re.compile(r"[*_=~–—-]+ ?([^*_=~]+?):? ?[*_=~–—-]+")
_COLON = re.compile(r"([^:：]+?) ?[:：]")
_DASH = re.compile(r"(.+?) ?[–—-]")
_LED = re.compile(r"([^:：]+?) ?[:：] ?(.+)")
_FRAME = "*_=~#;–—- "
_MAX_TAG_CHARS = 100
_SQUARED = str.maketrans("【】［］〔〕", "[][][]")


class LyricSection(NamedTuple):
    """One section of a song's lyrics."""

    tag: str
    """As in the normalised text without brackets, ``Verse 1``; empty before the first tag."""

    name: str
    """Canonical name alone, ``Verse``; empty before the first tag."""

    lines: tuple[str, ...]
    """Lines of words, without blank ones."""


class _Tag(NamedTuple):
    name: str
    text: str
    has_modifier: bool


def normalise_lyrics(text: str) -> str:
    """Return ``text`` with canonical section tags; doing it again changes nothing.

    Tags stand on their own lines with one blank line before them. Unicode is composed (NFC),
    invisible characters are dropped, every kind of space becomes one space, and several blank
    lines become one. No word is ever dropped.

    Raises:
        RequestError: control characters or another text that no song can be made of.

    Example:
        >>> normalise_lyrics("VERSE 1:\\nHello\\n(chorus)\\nLa la")
        '[Verse 1]\\nHello\\n\\n[Chorus]\\nLa la'
    """
    check_text("lyrics", text)
    lines: list[str] = []
    for line, is_tag in _read(clean_text(text)):
        after_tag = bool(lines) and _is_tag_line(lines[-1])
        if is_tag and lines and lines[-1]:
            lines.append("")
        if line or (lines and lines[-1] and not after_tag):
            lines.append(line)
    return "\n".join(lines).rstrip("\n")


def sections(text: str) -> list[LyricSection]:
    """Return the sections of lyrics in any dialect, in order.

    Raises:
        RequestError: as ``normalise_lyrics``.
    """
    found: list[LyricSection] = []
    for line in normalise_lyrics(text).split("\n"):
        tag = _parse(line[1:-1]) if _is_tag_line(line) else None
        if tag is not None:
            found.append(LyricSection(tag.text, tag.name, ()))
        elif line:
            last = found.pop() if found else LyricSection("", "", ())
            found.append(last._replace(lines=(*last.lines, line)))
    return found


def _read(text: str) -> Iterator[tuple[str, bool]]:
    """Yield (line, whether it is a section tag) for every line of the cleaned text."""
    after_blank = True
    for raw in re.split(r"\r\n|[\r\n\u2028\u2029]", text.translate(_SQUARED)):
        line = " ".join(raw.split())
        yield from _read_line(line, after_blank)
        after_blank = not line


def _read_line(line: str, after_blank: bool) -> Iterator[tuple[str, bool]]:
    square = [found for found in _SQUARE.finditer(line) if _parse(found[1])]
    if square:
        yield from _read_square(line, square, after_blank)
        return
    led = _led_by_tag(line, after_blank)
    while led:
        tag, line = led
        yield f"[{tag.text}]", True
        if not line:
            return
        led = _led_by_tag(line, False)
    yield _SQUARE.sub(lambda found: f"[{found[1].strip()}]", line), False


def _read_square(
    line: str, square: list[re.Match[str]], after_blank: bool
) -> Iterator[tuple[str, bool]]:
    """Yield a line with known tags in square brackets, wherever they stand in it."""
    # One dialect writes a whole song in a line and joins its sections with " ; ".
    before = line[: square[0].start()].strip().removesuffix(";").strip()
    if before.strip(_FRAME):
        yield from _read_line(before, after_blank)
    ends = [*[found.start() for found in square[1:]], len(line)]
    for found, end in zip(square, ends, strict=True):
        content = found[1]
        rest = line[found.end() : end].strip()
        if end < len(line):
            rest = rest.removesuffix(";").strip()
        if _TIMES.fullmatch(rest) and _parse(f"{content} {rest}"):
            content, rest = f"{content} {rest}", ""
        tag = _parse(content)
        assert tag is not None
        yield f"[{tag.text}]", True
        rest = rest.lstrip(":：").strip()
        if rest.strip(_FRAME):
            yield from _read_line(rest, False)


def _led_by_tag(line: str, after_blank: bool) -> tuple[_Tag, str] | None:
    """Read a tag without square brackets, and what follows it on the line."""
    for pattern in (_ROUND, _HEADING, _FRAMED, _COLON, _DASH):
        found = pattern.fullmatch(line)
        tag = _parse(found[1]) if found else None
        if tag and (tag.name in _INLINE or (pattern is not _DASH and not tag.has_modifier)):
            if tag.has_modifier and pattern is not _ROUND:
                continue
            return tag, ""
    if found := _LED.fullmatch(line):
        tag = _parse(found[1])
        if tag and not tag.has_modifier and tag.name in _INLINE:
            return tag, found[2]
    tag = _parse(line) if after_blank else None
    if tag and not tag.has_modifier and tag.name in _PLAIN:
        return tag, ""
    return None


def _parse(content: str) -> _Tag | None:
    """Read what stands in a tag: name, number, repetitions, modifier. None if it is no section."""
    content = content.strip()
    head = _NAME.match(content) if len(content) <= _MAX_TAG_CHARS else None
    if head is None or "[" in content or "]" in content:
        return None
    name = next(_CANONICAL[int(key[1:])] for key, value in head.groupdict().items()
                if value and key != "qualifier")  # fmt: skip
    text = f"{head['qualifier'].title()} {name}" if head["qualifier"] else name
    rest = content[head.end() :]
    if number := _NUMBER.match(rest):
        digits = number["digits"].lower()
        value = int(digits) if digits.isdecimal() else _ROMAN.get(digits)
        if value is not None:
            text, rest = f"{text} {value}", rest[number.end() :]
    if times := _TIMES.match(rest):
        text, rest = f"{text} x{int(times['after'] or times['before'])}", rest[times.end() :]
    rest = rest.strip()
    if rest and rest[0] not in _SEPARATORS + "(":
        return None
    modifier = _bare_modifier(rest)
    return _Tag(name, f"{text} - {modifier}" if modifier else text, bool(modifier))


def _bare_modifier(rest: str) -> str:
    """Strip separators and one pair of brackets around a modifier until nothing changes."""
    bare = rest.strip(_SEPARATORS + " ")
    if bare.startswith("(") and bare.endswith(")") and not re.search(r"[()]", bare[1:-1]):
        bare = bare[1:-1]
    return bare if bare == rest else _bare_modifier(bare)


def _is_tag_line(line: str) -> bool:
    found = _SQUARE.fullmatch(line)
    return bool(found and _parse(found[1]))
