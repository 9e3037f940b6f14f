"""What is said about the two models must be what they do on songs they never saw."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from khala.backbone import Backbone
from khala.codec import Codec
from khala.corpus import CodesExample, open_codes
from khala.errors import ConfigError, CorpusError
from khala.evals.completion import run_superres_eval
from khala.evals.fine_levels import energy_score, score_levels
from khala.evals.language import load_tokenizer, other_lyrics, run_backbone_eval, token_nats
from khala.evals.ngrams import Unigram
from khala.evals.prompts import request_of
from khala.evals.recogniser import Recogniser, RecogniserConfig
from khala.superres import SuperResolution
from khala.tokens import build_prompt, interleave


def test_token_costs_equal_the_slow_way(whole_model: Any) -> None:
    """Scores shifted by one position would call a good model bad, or the reverse."""
    backbone = Backbone.from_pretrained(whole_model.folder)
    tokenizer = load_tokenizer(whole_model.folder)
    example = open_codes(whole_model.codes).split("test")[0]
    costs = token_nats(backbone, tokenizer, example)
    layout = backbone.config.layout
    prompt = build_prompt(request_of(example), layout, tokenizer, max_tokens=500)
    codes_BQT = torch.from_numpy(example.codes_QT[None, :2].astype(np.int64))
    stream = [*prompt, *interleave(codes_BQT, layout)[0].tolist()]
    for frame, level in ((0, 0), (0, 1), (3, 0), (7, 1)):
        position = len(prompt) + 2 * frame + level
        with torch.no_grad():
            logits = backbone(torch.tensor([stream[:position]]))[0, -1]
        lo, hi = layout.window(level)
        scores = logits[lo:hi].log_softmax(-1)
        code = int(example.codes_QT[level, frame])
        assert costs[level, frame] == pytest.approx(-float(scores[code]), abs=1e-4)


def test_backbone_eval_from_folder_to_figures(whole_model: Any, tmp_path: Path) -> None:
    """An untrained model must come out as one: near the uniform cost, lyrics worth nothing."""
    result = run_backbone_eval(whole_model.folder, whole_model.codes, out=tmp_path / "results")
    found = result["splits"]["test"]
    assert found["level 0"]["backbone"] == pytest.approx(math.log(16), abs=0.5)
    assert found["num_songs_with_lyrics"] == 2
    assert abs(found["all"]["lyrics_gap"]) < 0.2
    assert (tmp_path / "results" / "backbone.json").is_file()
    assert {"unigram", "bigram, previous token", "bigram, same level"} <= set(found["level 1"])


def test_codes_of_another_codec_are_refused(whole_model: Any) -> None:
    """Costs of one codec's codes under a model of another's are noise that looks like a result."""
    codec = Codec.from_pretrained(whole_model.folder)
    with torch.no_grad():
        codec.quantizer.codebooks += 1.0
    codec.save(whole_model.folder / "codec")
    with pytest.raises(CorpusError, match="another codec"):
        run_backbone_eval(whole_model.folder, whole_model.codes)
    with pytest.raises(CorpusError, match="another codec"):
        run_superres_eval(whole_model.folder, whole_model.codes)


def test_nobody_is_scored_with_their_own_lyrics_as_the_wrong_ones(whole_model: Any) -> None:
    """A "wrong" lyric that is right would hide that the model listens."""
    examples: list[CodesExample] = list(open_codes(whole_model.codes).examples)
    examples.append(dataclasses.replace(examples[0], id="again"))
    examples.append(dataclasses.replace(examples[0], id="silent", instrumental=True, lyrics=""))
    others = other_lyrics(examples)
    assert others[-1] is None
    for example, other in zip(examples[:-1], others[:-1], strict=True):
        assert other is not None
        assert other != example.lyrics


def test_superres_eval_from_folder_to_figures(whole_model: Any, tmp_path: Path) -> None:
    """Part F's comparison in one command, against the original and against true codes."""
    result = run_superres_eval(
        whole_model.folder, whole_model.codes, whole_model.corpus, tmp_path, songs=2, seconds=1.0
    )
    assert set(result["mel80_and_stft"]) == {
        "true codes",
        "super-resolution",
        "coarse levels alone",
        "most frequent codes",
        "unigram sampling",
    }
    assert [row["level"] for row in result["levels"]] == [2, 3]
    assert result["levels"][0]["nats"] == pytest.approx(math.log(16), abs=0.6)
    assert "mel80 of super-resolution" in result["songs"][0]
    ear = Recogniser(RecogniserConfig(phonemes=("a", "i", "s", "u"), width=8, dilations=(1,)))
    ear.save(tmp_path / "ear")
    sung = run_superres_eval(
        whole_model.folder, whole_model.codes, whole_model.corpus, songs=2, seconds=1.0,
        recogniser=tmp_path / "ear",
    )  # fmt: skip
    assert set(sung["per"]) == {"original", *sung["mel80_and_stft"]}
    assert sung["per"]["original"]["num_songs"] == 2
    assert all(song["per"] > 0 for song in sung["songs"])
    with pytest.raises(ConfigError, match="--corpus"):
        run_superres_eval(whole_model.folder, whole_model.codes, recogniser=tmp_path / "ear")
    alone = run_superres_eval(whole_model.folder, whole_model.codes, songs=1, seconds=1.0)
    assert "true codes" not in alone["mel80_and_stft"]


def test_level_costs_look_at_no_code_of_their_own_level(whole_model: Any) -> None:
    """A score that peeks at its target would be far better than any song sounds."""
    superres = SuperResolution.from_pretrained(whole_model.folder)
    generator = np.random.default_rng(0)
    codes_QT = generator.integers(0, 16, (4, 9))
    other_QT = codes_QT.copy()
    other_QT[3] = generator.integers(0, 16, 9)
    prompt = [256, 65, 66, 262]
    codec = Codec.from_pretrained(whole_model.folder)
    unigrams = [Unigram.fit([codes], size=16) for codes in codes_QT]
    costs, others = (
        score_levels(superres, codec, prompt, codes, unigrams).nats_Q
        for codes in (codes_QT, other_QT)
    )
    assert np.isnan(costs[:2]).all()
    assert costs[2] == others[2]
    assert costs[3] != others[3]


def test_the_energy_score_is_least_for_the_true_distribution() -> None:
    """Neither the right marginal nor a sharper guess may pass for knowing what comes next."""
    generator = torch.Generator().manual_seed(0)
    vectors_KD = torch.randn(12, 4, generator=generator)
    apart_KK = torch.cdist(vectors_KD, vectors_KD)
    context_T = torch.randint(0, 3, (20_000,), generator=generator)
    given_CK = (2 * torch.randn(3, 12, generator=generator)).softmax(dim=1)
    true_T = torch.multinomial(given_CK[context_T], 1, generator=generator)[:, 0]
    sharper_CK = given_CK**3 / (given_CK**3).sum(dim=1, keepdim=True)
    marginal_K = torch.bincount(true_T, minlength=12) / len(true_T)
    right, sharp, blind = (
        float(energy_score(apart_KK, shares_TK, true_T).mean())
        for shares_TK in (
            given_CK[context_T],
            sharper_CK[context_T],
            marginal_K.expand(len(true_T), -1),
        )
    )
    assert right < 0.98 * sharp
    assert right < 0.98 * blind
    certain = torch.eye(12)[true_T[:5]]
    assert energy_score(apart_KK, certain, true_T[:5]).tolist() == pytest.approx([0.0] * 5)


def test_only_what_can_be_sampled_is_scored(whole_model: Any) -> None:
    """With one code kept, the score is that of the likeliest code and no other."""
    superres = SuperResolution.from_pretrained(whole_model.folder)
    codec = Codec.from_pretrained(whole_model.folder)
    codes_QT = np.random.default_rng(0).integers(0, 16, (4, 9))
    unigrams = [Unigram.fit([codes], size=16) for codes in codes_QT]
    args = (superres, codec, [256, 65, 66, 262], codes_QT, unigrams)
    one, all_codes, own = (score_levels(*args, top_k=top_k) for top_k in (1, 16, None))
    np.testing.assert_array_equal(one.nats_Q[2:], all_codes.nats_Q[2:])
    np.testing.assert_array_equal(one.energy_unigram_Q[2:], all_codes.energy_unigram_Q[2:])
    assert (one.energy_Q[2:] > all_codes.energy_Q[2:]).all()
    superres.config = dataclasses.replace(superres.config, sampling_temperature=1e-6)
    cold = score_levels(*args, top_k=16)
    np.testing.assert_allclose(cold.energy_Q[2:], one.energy_Q[2:], rtol=1e-5)
    np.testing.assert_array_equal(cold.nats_Q[2:], one.nats_Q[2:])
    assert superres.config.sampling_top_k < 16 or (own.energy_Q[2:] == all_codes.energy_Q[2:]).all()
