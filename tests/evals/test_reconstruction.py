"""The codec's table: it must measure the codec on songs it never saw, and hide nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from khala.codec import Codec, CodecConfig, QuantizerConfig, SpectralConfig
from khala.corpus import open_corpus
from khala.errors import ConfigError, CorpusError
from khala.evals.recogniser import Recogniser, RecogniserConfig
from khala.evals.reconstruction import choose_clips, code_usage, run_codec_eval
from khala.evals.report import ignore_messages

WriteCorpus = Callable[..., Path]


def tiny_codec(folder: Path) -> Codec:
    torch.manual_seed(0)
    config = CodecConfig(
        quantizer=QuantizerConfig(num_levels=4, codebook_size=16, latent_width=8),
        spectral=SpectralConfig(fine_width=8, coarse_width=8),
    )
    codec = Codec(config)
    codec.save(folder)
    return codec.eval()


def test_the_whole_table(write_corpus: WriteCorpus, tmp_path: Path) -> None:
    """Every figure a reader sees comes from this one command; it must run from folder to JSON."""
    corpus = write_corpus(3, splits=("train", "test", "test_voice"))
    tiny_codec(tmp_path / "codec")
    ear = Recogniser(RecogniserConfig(phonemes=("a", "i", "s", "u"), width=8, dilations=(1,)))
    ear.save(tmp_path / "ear")
    result = run_codec_eval(
        tmp_path / "codec",
        corpus,
        out=tmp_path / "results",
        clips=2,
        seconds=1.5,
        peers=[],
        recogniser=tmp_path / "ear",
        usage_minutes=0.2,
    )
    assert set(result["means"]) == {"k=2", "k=4", "not quantised"}
    assert result["kbit_s"]["k=4"] == pytest.approx(4 * 4 * 44_100 / 2048 / 1000)
    assert {"original", "k=2", "k=4", "original, shuffled lyrics"} <= set(result["per"])
    assert len(result["usage"]) == 4
    assert any("improves with every doubling" in check["claim"] for check in result["checks"])
    assert json.loads((tmp_path / "results" / "codec.json").read_text()) == result
    assert (tmp_path / "results" / "codec.png").stat().st_size > 1000


def test_clips_come_from_held_out_songs_only(write_corpus: WriteCorpus) -> None:
    """Figures on songs the codec was trained on would flatter it."""
    corpus = open_corpus(write_corpus(4, splits=("train", "test")))
    clips = choose_clips(corpus, 5, 1.0, hop=2048)
    assert {clip.song.split for clip in clips} == {"test"}
    assert len({(clip.song.id, clip.start_s) for clip in clips}) == 5
    for clip in clips:
        assert clip.wave_CN.shape == (2, 44_100)
        assert round(clip.start_s * 44_100) % 2048 == 0
        assert len(clip.phonemes) >= 3
    with pytest.raises(CorpusError, match="held-out"):
        choose_clips(corpus, 1, 100.0, hop=2048)


def test_use_of_codes_is_counted(
    write_corpus: WriteCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead codebook wastes its bits, and only this count shows it."""
    corpus = open_corpus(write_corpus(1, splits=("test",)))
    codec = tiny_codec(tmp_path / "codec")
    codes = torch.tensor([[[0, 1, 2, 3] * 4, [5] * 16, list(range(16)), [0, 15] * 8]])
    monkeypatch.setattr(codec, "encode", lambda _: codes)
    usage = code_usage(codec, corpus, 1.0, ignore_messages)
    assert [u["used"] for u in usage] == [0.25, 1 / 16, 1.0, 0.125]
    np.testing.assert_allclose([u["entropy_bits"] for u in usage], [2.0, 0.0, 4.0, 1.0], atol=1e-9)


def test_no_clips_is_a_mistake(tmp_path: Path) -> None:
    """An empty table would look like a finished one."""
    with pytest.raises(ConfigError, match="clip"):
        run_codec_eval(tmp_path, tmp_path, clips=0)
