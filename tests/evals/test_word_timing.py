"""When words are sung: the likeliest path, and the file that a player reads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from khala.evals.recogniser import Recogniser, RecogniserConfig, TimedWord, lrc_text, time_words
from khala.evals.recogniser.timing import align_ids


def test_the_path_is_the_likeliest_of_all() -> None:
    """A path that is merely good puts every word after it in the wrong place."""
    generator = np.random.default_rng(0)
    for ids in ([1], [1, 2], [2, 2], [1, 2, 1]):
        scores_SP = np.log(generator.dirichlet(np.ones(3), 6)).astype(np.float32)
        best, spans = -np.inf, None
        for path in itertools.product(range(3), repeat=6):
            runs = [(name, len(list(group))) for name, group in itertools.groupby(path)]
            if [name for name, _ in runs if name] != ids:
                continue
            score = float(sum(scores_SP[step, name] for step, name in enumerate(path)))
            if score > best:
                ends = np.cumsum([length for _, length in runs])
                best = score
                spans = [
                    (int(end - length), int(end - 1))
                    for (name, length), end in zip(runs, ends, strict=True)
                    if name
                ]
        assert align_ids(scores_SP, ids) == spans
    with pytest.raises(ValueError, match="3 phonemes do not fit into 2 steps"):
        align_ids(np.zeros((2, 3), np.float32), [1, 2, 1])
    with pytest.raises(ValueError, match="do not fit"):
        align_ids(np.zeros((2, 3), np.float32), [1, 1])


def test_words_get_the_times_of_their_sounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word nobody can pronounce has no time, and does not shift its neighbours."""
    ear = Recogniser(RecogniserConfig(phonemes=("a", "s"), width=8, dilations=(1,)))
    ear.words = {"sa": ("s", "a"), "i'm": ("a",)}
    scores_SP = torch.full((100, 3), -9.0)
    scores_SP[:, 0] = -1.0
    for step, sound in ((20, 2), (21, 1), (60, 1)):
        scores_SP[step] = torch.tensor([-9.0, -9.0, -9.0])
        scores_SP[step, sound] = 0.0
    monkeypatch.setattr(ear, "scores", lambda _: scores_SP)
    wave_CN = np.zeros((2, 10), np.float32)
    words = time_words(wave_CN, "[Verse]\nSa blorp\n\n[Chorus]\nI\u2019m", ear)
    assert [(word.text, word.line) for word in words] == [("Sa", 0), ("blorp", 0), ("I'm", 1)]
    assert words[0].start_s == pytest.approx(20 * 1024 / 44_100)
    assert words[0].end_s == pytest.approx(22 * 1024 / 44_100)
    assert words[1].start_s is None
    assert words[2].start_s == pytest.approx(60 * 1024 / 44_100)
    with pytest.raises(ValueError, match="no word"):
        time_words(wave_CN, "blorp", ear)


def test_the_file_is_enhanced_lrc() -> None:
    """A player that cannot read it shows nothing."""
    words = [
        TimedWord(text="oh", line=0, start_s=None, end_s=None),
        TimedWord(text="sun", line=0, start_s=61.239, end_s=62.0),
        TimedWord(text="what", line=1, start_s=None, end_s=None),
    ]
    assert lrc_text(words) == "[01:01.24] oh <01:01.24> sun\n"
