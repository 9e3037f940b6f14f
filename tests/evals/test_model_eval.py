"""Both models of a folder judged together: calibration, free running, and the dial."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from khala.backbone import Backbone
from khala.codec import Codec
from khala.corpus import open_codes, open_corpus
from khala.errors import CorpusError
from khala.evals import run_model_eval
from khala.evals.calibration import Guesses, calibration_error, reliability
from khala.evals.dial import original_wave, turn_dial
from khala.evals.drift import courses, window_means
from khala.evals.language import load_tokenizer
from khala.superres import SuperResolution


def test_calibration_is_judged_by_what_happens() -> None:
    """A model that is twice as sure as it is right must not look as good as an honest one."""
    generator = torch.Generator().manual_seed(0)
    logits_TK = 2 * torch.randn(20_000, 30, generator=generator)
    true_T = torch.multinomial(logits_TK.softmax(dim=1), 1, generator=generator)[:, 0]
    honest, boasting, timid = (Guesses.of(scale * logits_TK, true_T) for scale in (1, 2, 0.5))
    assert calibration_error(honest) < 0.02
    assert calibration_error(boasting) > 0.1
    assert calibration_error(timid) > 0.1
    assert honest.nats_N.mean() == pytest.approx(honest.entropy_N.mean(), abs=0.03)
    assert boasting.nats_N.mean() > boasting.entropy_N.mean() + 0.5
    assert timid.nats_N.mean() < timid.entropy_N.mean() - 0.3
    groups = reliability(honest)
    assert [size for *_, size in groups] == [2_000] * 10
    assert all(low[0] < high[0] for low, high in itertools.pairwise(groups))
    halves = [Guesses.of(logits_TK[part], true_T[part]) for part in (slice(7), slice(7, 20_000))]
    assert calibration_error(Guesses.joined(halves)) == calibration_error(honest)


def test_few_guesses_are_still_judged() -> None:
    """A song of three frames must not end an evaluation of an hour."""
    guesses = Guesses.of(torch.eye(3), torch.tensor([0, 1, 0]))
    assert guesses.is_right_N.tolist() == [True, True, False]
    assert len(reliability(guesses)) == 3


def test_a_model_pays_for_its_own_codes_what_it_expects(whole_model: Any) -> None:
    """Codes misaligned by one, or of the wrong prompt, would cost more than the model expects."""
    backbone = Backbone.from_pretrained(whole_model.folder)
    with torch.no_grad():
        backbone.lm_head.weight *= 60  # an untrained model believes nothing; let it be opinionated
    tokenizer = load_tokenizer(whole_model.folder)
    example = next(one for one in open_codes(whole_model.codes) if not one.instrumental)
    seen = [
        courses(
            backbone, tokenizer, example, "[Verse]\nother words", num_frames=40, top_k=16, seed=seed
        )
        for seed in range(6)
    ]
    own = np.concatenate([one.own_nats_T for one in seen])
    expected = np.concatenate([one.own_entropy_T for one in seen])
    error = (own - expected).std() / len(own) ** 0.5
    assert abs((own - expected).mean()) < 4 * error
    assert seen[0].true_nats_T.mean() > seen[0].true_entropy_T.mean() + 0.5
    assert {len(one.true_nats_T) for one in seen} == {min(40, example.num_frames)}
    assert np.mean([one.own_gap for one in seen]) > 0, "what it wrote fits its own words best"
    wordless = courses(backbone, tokenizer, example, None, num_frames=4, top_k=16, seed=0)
    assert np.isnan([wordless.true_gap, wordless.own_gap]).all()


def test_songs_that_end_early_leave_the_others_their_windows() -> None:
    """A short song counted as zeros would look like a model that grows surer."""
    means = window_means([np.full(10, 2.0), np.full(25, 4.0)], frame_rate_hz=2.0)
    assert means.tolist() == [3.0, 4.0, 4.0]


def test_the_dial_is_one_song_at_more_and_more_levels(whole_model: Any) -> None:
    """Stops from different draws would compare songs, not levels."""
    codec = Codec.from_pretrained(whole_model.folder)
    superres = SuperResolution.from_pretrained(whole_model.folder)
    example = open_codes(whole_model.codes)[2]
    corpus = open_corpus(whole_model.corpus)
    original_CN = original_wave(corpus, codec, example, 12)
    assert original_CN.shape == (2, 12 * codec.config.hop)
    prompt = [256, 65, 66, 262]
    dial = turn_dial(codec, superres, prompt, example, original_CN, top_k=4, seed=3)
    assert [stop.levels for stop in dial] == [2, 4]
    assert (dial[0].superres_s, dial[0].mel80) == (0.0, dial[0].true_mel80)
    assert dial[1].superres_s > 0
    assert dial[1].mel80 != dial[1].true_mel80
    again = turn_dial(codec, superres, prompt, example, original_CN, top_k=4, seed=3)
    assert [stop.mel80 for stop in again] == [stop.mel80 for stop in dial]
    long_CN = original_wave(corpus, codec, example, 10_000)
    assert not long_CN[:, -1000:].any(), "silence after a recording's end"


def test_model_eval_from_folder_to_figures(whole_model: Any, tmp_path: Path) -> None:
    """One command, one report: every level, the way through a song, and the dial."""
    folder, codes, corpus = whole_model.folder, whole_model.codes, whole_model.corpus
    result = run_model_eval(folder, codes, corpus, tmp_path, songs=3, seconds=1.0)
    assert [row["level"] for row in result["levels"]] == [0, 1, 2, 3]
    assert all(0 <= row["calibration error"] <= 1 for row in result["levels"])
    assert [row["levels"] for row in result["dial"]] == [2, 4]
    assert result["free_running"]["own_gap"] is not None
    assert json.loads((tmp_path / "model.json").read_text()) == result
    assert (tmp_path / "model.png").stat().st_size > 1000
    assert "<table" in (tmp_path / "model.html").read_text()
    long = run_model_eval(folder, codes, corpus, songs=2, seconds=500.0)
    assert len(long["free_running"]["windows"]) >= 1, "cut to what fits, not refused"
    with pytest.raises(CorpusError, match="at least 2"):
        run_model_eval(folder, codes, corpus, songs=1)
