"""Lyrics in any dialect come out in one form, and no word is lost on the way."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khala.errors import RequestError
from khala.tokens import normalise_lyrics, sections

DIALECTS = [
    ("[Verse 1]", "[Verse 1]"),
    ("[chorus]", "[Chorus]"),
    ("(Chorus)", "[Chorus]"),
    ("Verse:", "[Verse]"),
    ("VERSE 2 -", "[Verse 2]"),
    ("VERSE 2", "[Verse 2]"),
    ("Chorus", "[Chorus]"),
    ("[verse1]", "[Verse 1]"),
    ("[Verse #2]", "[Verse 2]"),
    ("[Verse II]", "[Verse 2]"),
    ("[V2]", "[Verse 2]"),
    ("[chorus x2]", "[Chorus x2]"),
    ("[Chorus 2x]", "[Chorus x2]"),
    ("[Chorus] (x2)", "[Chorus x2]"),
    ("[Chorus - anthemic]", "[Chorus - anthemic]"),
    ("[CHORUS: anthemic]", "[Chorus - anthemic]"),
    ("[Verse 1: The Singer]", "[Verse 1 - The Singer]"),
    ("[Chorus (anthemic)]", "[Chorus - anthemic]"),
    ("(Chorus - soft)", "[Chorus - soft]"),
    ("[Verse - 2 guitars]", "[Verse - 2 guitars]"),
    ("[pre chorus]", "[Pre-Chorus]"),
    ("[Prechorus 2]", "[Pre-Chorus 2]"),
    ("[post-chorus]", "[Post-Chorus]"),
    ("[inst]", "[Instrumental]"),
    ("[inst-medium]", "[Instrumental - medium]"),
    ("[intro-short]", "[Intro - short]"),
    ("[guitar solo]", "[Guitar Solo]"),
    ("[final chorus]", "[Final Chorus]"),
    ("[instrumental break]", "[Instrumental Break]"),
    ("[build-up]", "[Build]"),
    ("[middle 8]", "[Bridge]"),
    ("[fade out]", "[Fade Out]"),
    ("[outro.]", "[Outro]"),
    ("{Bridge}", "[Bridge]"),
    ("<Hook>", "[Hook]"),
    ("**Chorus**", "[Chorus]"),
    ("**[Chorus]**", "[Chorus]"),
    ("## Verse 1", "[Verse 1]"),
    ("--- Outro ---", "[Outro]"),
    ("\u3010\u526f\u6b4c\u3011", "[Chorus]"),
    ("[\u4e3b\u6b4c 1]", "[Verse 1]"),
    ("\u4e3b\u6b4c\uff1a", "[Verse]"),
]


@pytest.mark.parametrize(("written", "canonical"), DIALECTS)
def test_dialects(written: str, canonical: str) -> None:
    """A tag that is not understood is sung as a word: "verse two" in the middle of a song."""
    assert normalise_lyrics(f"first line\n\n{written}\nla la") == (
        f"first line\n\n{canonical}\nla la"
    )


@pytest.mark.parametrize(
    "line",
    [
        "(hold me)",
        "(Drop, drop, drop)",
        "Drop -",
        "Drop the bass",
        "Versed in love",
        "I sing the chorus",
        "Bridge over water",
        "Verse I walk alone:",
        "[whispered]",
        "[Chorus of angels]",
        "[whispered] come closer",
        "she said: go",
        "la - la -",
        "- a dash",
        "# 1",
        "[]",
        "(x2)",
    ],
)
def test_words_stay_words(line: str) -> None:
    """Words taken for a tag are words that nobody sings."""
    assert normalise_lyrics(f"first\n{line}\nlast") == f"first\n{line}\nlast"


def test_words_after_a_tag_on_its_line() -> None:
    """The first line of a verse would be lost, or become part of its name."""
    assert normalise_lyrics("[Verse 1] Hello\nyou") == "[Verse 1]\nHello\nyou"
    assert normalise_lyrics("Chorus: la la") == "[Chorus]\nla la"
    assert normalise_lyrics("la la [Bridge] na na") == "la la\n\n[Bridge]\nna na"
    assert normalise_lyrics("[Verse][whispered] hi") == "[Verse]\n[whispered] hi"


def test_sections_joined_in_one_line() -> None:
    """Lyrics written for another open model must not need to be typed again."""
    text = "[intro-short] ; [verse] First words. More words ; [chorus] La la ; [outro-short]"
    assert normalise_lyrics(text) == (
        "[Intro - short]\n\n[Verse]\nFirst words. More words\n\n[Chorus]\nLa la\n\n[Outro - short]"
    )


def test_bare_name_only_after_a_blank_line() -> None:
    """A line that is only the word "Chorus" inside a verse is sung."""
    assert normalise_lyrics("Verse\nIntro\n\nOutro\nla") == "[Verse]\nIntro\n\n[Outro]\nla"


def test_layout_of_lines() -> None:
    """Every blank line is a token to the model: ten of them are a silence nobody wrote."""
    text = "\n\n[Verse]\r\n\r\n  a\tb  \r c\u00a0d\u2028e\n\n\n\n[Chorus]\n\n\nf\n\n\ng\n\n"
    assert normalise_lyrics(text) == "[Verse]\na b\nc d\ne\n\n[Chorus]\nf\n\ng"


def test_invisible_characters_and_composition() -> None:
    """Two texts that look the same must be the same song."""
    assert normalise_lyrics("\ufeffcafe\u0301 \u202ela\u202c\u200b") == "caf\u00e9 la"


@pytest.mark.parametrize("bad", ["a\x00b", "a\x1b[0m", "a\x0bb", "\ud800", "<|eot_id|>"])
def test_control_characters_are_refused(bad: str) -> None:
    """A terminal escape in lyrics would be shown back to whoever reads the log."""
    with pytest.raises(RequestError, match="lyrics"):
        normalise_lyrics(bad)


PARTS = [
    *"[](){}<>:;-*#_.,|/=~ \n\t1",
    *("\n\n", " - ", "x2", "II", "v1", "Verse", "chorus", "inst", "Hook", "drop", "guitar", "la"),
    *("\u3010", "\u3011", "\uff1a", "\u2013", "\u526f\u6b4c", "e\u0301", "\u037e", "\u2028"),
]
texts = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PARTS), max_size=14).map("".join))


@settings(max_examples=500)
@given(texts)
def test_idempotent(text: str) -> None:
    """What is shown back to the user, sent again, must be the same song."""
    try:
        once = normalise_lyrics(text)
    except RequestError:
        return
    assert normalise_lyrics(once) == once
    assert "\n\n\n" not in once
    assert once == once.strip()


WORDS = st.lists(
    st.text("abcdefghijkmopqsuwyz'!?\u00e9\u4f60", min_size=1, max_size=6), min_size=1, max_size=5
).map(" ".join)


@given(st.lists(st.tuples(st.sampled_from(DIALECTS), st.lists(WORDS, max_size=4)), max_size=5))
def test_no_word_is_lost(song: list[tuple[tuple[str, str], list[str]]]) -> None:
    """Each line of each section comes back, under its own tag."""
    text = "\n\n".join("\n".join([tag[0], *lines]) for tag, lines in song)
    found = [(f"[{one.tag}]", list(one.lines)) for one in sections(text)]
    assert found == [(tag[1], lines) for tag, lines in song]


def test_sections() -> None:
    """Progress by section, and the report of what was sung, count these."""
    found = sections("hello\n\n[Verse 2 - soft]\na\n\nb\n[Chorus]")
    assert [(one.tag, one.name, one.lines) for one in found] == [
        ("", "", ("hello",)),
        ("Verse 2 - soft", "Verse", ("a", "b")),
        ("Chorus", "Chorus", ()),
    ]
    assert sections("") == []


@pytest.mark.parametrize("piece", ["Hook:", "[", "-", "[Verse]", "(", "a ", "[a", "Verse 1 -"])
def test_long_lyrics_take_no_time(piece: str) -> None:
    """One request of five thousand characters would stop a server for everybody."""
    started = time.perf_counter()
    normalise_lyrics((piece * 5_000)[:5_000])
    assert time.perf_counter() - started < 2
