"""The recogniser is the ear of every claim about words: it must decode and load faithfully."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from khala.errors import CheckpointError, ConfigError
from khala.evals.recogniser.model import (
    BLANK,
    Recogniser,
    RecogniserConfig,
    beam_search,
    features,
    greedy,
)


def tiny() -> Recogniser:
    torch.manual_seed(1)
    config = RecogniserConfig(phonemes=("a", "b", "c"), width=16, dilations=(1, 2))
    model = Recogniser(config).eval()
    model.words = {"cab": ("c", "a", "b")}
    return model


def test_greedy_merges_repeats_but_not_across_a_blank() -> None:
    """A held vowel is one phoneme; "no owl" has two: miscounting either spoils every rate."""
    best = torch.tensor([0, 1, 1, 0, 1, 2, 2, 0, 3])
    scores_SP = torch.nn.functional.one_hot(best, 4).float()
    assert greedy(scores_SP) == [1, 1, 2, 3]


def test_beam_search_equals_summing_over_every_alignment() -> None:
    """A beam that miscounts alignments would hear worse than greedy and nobody would know why."""
    generator = np.random.default_rng(4)
    scores_SP = np.log(generator.dirichlet(np.ones(3), 6)).astype(np.float32)
    totals: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=6):
        label = tuple(index for index, _ in itertools.groupby(path) if index != BLANK)
        score = float(sum(scores_SP[step, index] for step, index in enumerate(path)))
        totals[label] = float(np.logaddexp(totals.get(label, -np.inf), score))
    best = max(totals, key=lambda label: totals[label])
    assert tuple(beam_search(scores_SP, beam=200)) == best


def test_loudness_does_not_change_what_is_heard() -> None:
    """A quiet master would otherwise score as mumbled."""
    wave_CN = np.random.default_rng(0).normal(0, 0.05, (2, 30_000)).astype(np.float32)
    np.testing.assert_allclose(features(wave_CN), features(4 * wave_CN), atol=2e-3)


def test_every_length_is_heard_to_its_end() -> None:
    """The last word of a song must not fall off because the frames do not pair up."""
    model = tiny()
    for num_frames in (1, 2, 7, 8):
        scores = model(torch.zeros(1, num_frames, 80))
        assert scores.shape == (1, -(-num_frames // 2), 4)
    assert model.recognise(np.zeros((2, 5000), dtype=np.float32)) is not None


def test_saved_and_loaded_it_hears_the_same(tmp_path: Path) -> None:
    """Figures of two runs could not be compared if loading changed the instrument."""
    model = tiny()
    wave_CN = np.random.default_rng(2).normal(0, 0.1, (2, 60_000)).astype(np.float32)
    model.save(tmp_path / "ear")
    again = Recogniser.from_pretrained(tmp_path / "ear")
    assert again.recognise(wave_CN) == model.recognise(wave_CN)
    assert again.words == model.words
    (tmp_path / "ear" / "words.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"words\.json"):
        Recogniser.from_pretrained(tmp_path / "ear")


def test_bad_sizes_are_refused() -> None:
    """A recogniser of nothing would report a perfect score on silence."""
    with pytest.raises(ConfigError):
        RecogniserConfig(phonemes=())
    with pytest.raises(ConfigError):
        RecogniserConfig(phonemes=("a", "a"))
    with pytest.raises(ConfigError):
        RecogniserConfig(phonemes=("a",), width=0)
