"""Excerpts: a section's sound with a section's words."""

from dataclasses import replace

import numpy as np

from khala.corpus import (
    CodesExample,
    HeldCodes,
    Section,
    Word,
    excerpts,
    line_excerpts,
    with_excerpts,
)
from khala.corpus.timing import sections_with_lyrics

LYRICS = "[Verse 1]\none two\n\n[Chorus]\nthree\n\n[Chorus]\nthree"
TRUTH = [
    {"name": name, "start_s": 10.0 * place, "end_s": 10.0 * place + 10}
    for place, name in enumerate(["Intro", "Verse 1", "Chorus", "Chorus"])
]
WORDS = (
    Word("one", 10.0, 11.0),
    Word("two", 12.0, 13.0),
    Word("three", 20.0, 21.0),
    Word("Three", 30.0, 31.0),
)


def song(lyrics: str = LYRICS) -> CodesExample:
    return CodesExample(
        id="7",
        split="train",
        codes=HeldCodes(np.arange(2 * 800, dtype=np.uint16).reshape(2, 800)),
        tags=("pop",),
        description="",
        lyrics=lyrics,
        instrumental=not lyrics,
        language="en",
        duration_s=40.0,
        truth_path=None,
        sections=sections_with_lyrics(TRUTH, lyrics),
        words=WORDS,
        phonemes=WORDS,
        chords=(Word("C", 0.0, 19.0), Word("G", 19.0, 25.0), Word("F", 25.0, 50.0)),
        beats_s=tuple(range(40)),
    )


def test_words_go_to_their_sections_in_order() -> None:
    """Words beside the wrong sound teach the model to mumble."""
    assert [part.lyrics for part in song().sections] == [
        "", "[Verse 1]\none two", "[Chorus]\nthree", "[Chorus]\nthree",
    ]  # fmt: skip
    assert sections_with_lyrics(TRUTH[:2], LYRICS) == ()
    assert sections_with_lyrics([], "") == ()


def test_excerpts_are_cut_at_sections() -> None:
    """An excerpt that starts inside a word has words it does not sing."""
    found = {part.id: part for part in excerpts(song(), max_s=21)}
    assert set(found) == {"7:0-1", "7:1-1", "7:1-2", "7:2-2", "7:2-3", "7:3-3"}
    chorus = found["7:2-3"]
    assert chorus.lyrics == "[Chorus]\nthree\n\n[Chorus]\nthree"
    assert chorus.codes_QT[0, 0] == 397
    assert chorus.num_frames == 403
    assert abs(chorus.duration_s - 20.15) < 1e-9
    assert [word.text for word in chorus.words] == ["three", "Three"]
    assert abs(chorus.words[0].start_s - 0.15) < 1e-9
    assert chorus.phonemes == chorus.words
    assert [chord.text for chord in chorus.chords] == ["G", "F"]
    np.testing.assert_allclose(
        [(chord.start_s, chord.end_s) for chord in chorus.chords], [(0, 5.15), (5.15, 20.15)]
    )
    np.testing.assert_allclose(chorus.beats_s, np.arange(20) + 0.15)


def test_lines_are_cut_where_they_are_sung() -> None:
    """A line with a neighbour's words teaches the model to sing what is not written."""
    first, *others = line_excerpts(song())
    assert (first.lyrics, len(others)) == ("[Verse 1]\none two", 2)
    assert first.codes_QT[0, 0] == 197
    assert first.num_frames == 66
    assert [word.text for word in first.words] == ["one", "two"]
    assert line_excerpts(replace(song(), words=WORDS[:3])) == []
    assert line_excerpts(replace(song(), words=(*WORDS, WORDS[0]))) == []
    assert len(with_excerpts([song()], 0, lines=True)) == 4


def test_whole_songs_stay_and_instrumentals_have_none() -> None:
    """A model that has seen only excerpts cannot write a song."""
    assert [part.id for part in with_excerpts([song()], 0)] == ["7"]
    assert with_excerpts([song()], 21)[0].id == "7"
    assert excerpts(song(""), max_s=100) == []
    assert isinstance(song().sections[0], Section)
