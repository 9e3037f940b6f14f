"""Prompts of training songs."""

from dataclasses import replace

import numpy as np
import pytest

from khala.corpus import CodesExample, HeldCodes
from khala.errors import ConfigError
from khala.tokens import TextTokenizer, nano_layout
from khala.train.prompts import PromptConfig, Prompts

SONG = CodesExample(
    id="1",
    split="train",
    codes=HeldCodes(np.zeros((2, 100), dtype=np.uint16)),
    tags=("pop", "piano", "100 bpm"),
    description="a song",
    lyrics="",
    instrumental=True,
    language="en",
    duration_s=4.0,
    truth_path=None,
)


def asked(config: PromptConfig, song: CodesExample = SONG) -> set[str]:
    tokenizer = TextTokenizer.bytes()
    prompts = Prompts([song], config, nano_layout(), tokenizer)
    texts = set()
    for step in range(200):
        ids = prompts.drawn(0, step, 0)
        end = ids.index(nano_layout().control.separator)
        texts.add(tokenizer.decode(ids[1:end]))
        assert ids == prompts.drawn(0, step, 0)  # a resumed run must see the same prompts
    return texts


def test_songs_are_asked_for_as_users_do() -> None:
    """A model that has only seen ten tags in one order does not understand "piano, pop"."""
    texts = asked(PromptConfig())
    assert {"a song", "", "pop, piano, 100 bpm", "piano", "piano, pop"} <= texts
    assert len(texts) > 12
    assert asked(PromptConfig(subset_ratio=0.0)) == {"a song", "", "pop, piano, 100 bpm"}


def test_a_song_without_tags_can_be_drawn() -> None:
    """A user's own songs often have none."""
    assert asked(PromptConfig(), replace(SONG, tags=())) == {"a song", ""}


def test_bare_prompts_are_met_as_often_as_asked() -> None:
    """Guidance compares with them, so a model must know them; and know the other ones better."""
    song = replace(SONG, instrumental=False, lyrics="[Verse]\nla la")
    control = nano_layout().control
    config = PromptConfig(bare_ratio=0.2)
    prompts = Prompts([song], config, nano_layout(), TextTokenizer.bytes())
    drawn = [prompts.drawn(0, step, 0) for step in range(500)]
    wordless = [ids for ids in drawn if control.end_line not in ids]
    assert 70 < len(wordless) < 130
    assert all(ids == wordless[0] for ids in wordless)
    assert control.begin_lyrics in wordless[0], "still a song with a voice"
    with pytest.raises(ConfigError, match="bare_ratio"):
        PromptConfig(bare_ratio=0.6)
