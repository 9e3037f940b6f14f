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
from khala.errors import CorpusError
from khala.evals.completion import (
    NUM_GROUPS,
    group_codes,
    joint_divergence_bits,
    level_nats,
    run_superres_eval,
)
from khala.evals.language import _other_lyrics, load_tokenizer, run_backbone_eval, token_nats
from khala.evals.prompts import request_of
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
    others = _other_lyrics(examples)
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
    costs, others = (level_nats(superres, prompt, codes) for codes in (codes_QT, other_QT))
    assert np.isnan(costs[:2]).all()
    assert costs[2] == others[2]
    assert costs[3] != others[3]


def test_divergence_sees_what_independent_drawing_loses(whole_model: Any) -> None:
    """Unigram sampling has the right histogram of every level; it must not look right for that."""
    generator = np.random.default_rng(0)
    groups_QK = np.tile(np.arange(32), (3, 1))
    assert groups_QK.max() < NUM_GROUPS
    songs = []
    for _ in range(4):
        below = generator.integers(0, 32, 500)
        songs.append(np.stack([below, below, (below + 1) % 32]))
    drawn = [np.stack([*one[:2], generator.permutation(one[2])]) for one in songs]
    again = joint_divergence_bits(groups_QK, songs[:2], songs[2:], 2)
    assert joint_divergence_bits(groups_QK, songs, drawn, 2) > 2 * again
    groups = group_codes(Codec.from_pretrained(whole_model.folder))
    assert groups.shape == (4, 16)
