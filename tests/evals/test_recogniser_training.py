"""The recogniser must learn to hear, and say honestly how well."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from khala.corpus import open_corpus
from khala.errors import CorpusError
from khala.evals.distances import SAMPLE_RATE_HZ
from khala.evals.listening import listen
from khala.evals.recogniser import evaluation, recogniser_errors
from khala.evals.recogniser.lyrics import collect_words
from khala.evals.recogniser.model import STEP_S, Recogniser, RecogniserConfig
from khala.evals.recogniser.training import (
    RecogniserTraining,
    crop,
    load_example,
    train_recogniser,
)
from khala.evals.report import ignore_messages
from khala.evals.sung import score_words

WriteCorpus = Callable[..., Path]


def test_classes_of_steps_agree_with_the_truth(write_corpus: WriteCorpus) -> None:
    """Labels one step late would teach the ear to hear every consonant in the next vowel."""
    corpus = open_corpus(write_corpus(1))
    song = corpus.songs[0]
    config = RecogniserConfig(phonemes=("a", "i", "s", "u"))
    features_TM, steps_S, ids = crop(load_example(corpus, song, config), 0, 120)
    assert features_TM.shape == (240, 80)
    for phoneme in song.truth()["phonemes"]:
        middle_s = (phoneme["start_s"] + phoneme["end_s"]) / 2
        if middle_s < 119 * STEP_S:
            wanted = config.phonemes.index(phoneme["phoneme"]) + 1
            assert int(steps_S[int(middle_s / STEP_S)]) == wanted
    assert steps_S[:8].tolist() == [0] * 8
    assert len(ids) == sum(
        (p["start_s"] + p["end_s"]) / 2 < 120 * STEP_S for p in song.truth()["phonemes"]
    )


def test_the_dictionary_is_what_was_sung(
    write_corpus: WriteCorpus, words: dict[str, tuple[str, ...]]
) -> None:
    """A wrong pronunciation makes every generated song that sings the word look wrong."""
    assert collect_words(open_corpus(write_corpus(3)).songs) == words


def test_it_learns_to_hear_four_phonemes(
    write_corpus: WriteCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From corpus to figures in one command: an ear that learns nothing measures nothing."""
    folder = write_corpus(6, splits=("train", "train", "test"))

    def quickly(corpus: object, training: RecogniserTraining, **others: object) -> Recogniser:
        del training, others
        quick = RecogniserTraining(
            minutes=5, max_steps=60, batch=4, crop_s=3.0, peak_rate=5e-3, ctc_share=0.2
        )
        return train_recogniser(corpus, quick, on_message=ignore_messages)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation, "train_recogniser", quickly)
    torch.manual_seed(0)
    result = evaluation.run_recogniser_eval(
        folder, tmp_path / "ear", train=True, minutes=1, out=tmp_path / "results"
    )
    per = {name: rate["per"] for name, rate in result["per"].items()}
    assert per["test: mix"] < 0.4
    assert per["test: mix, shuffled lyrics"] > per["test: mix"] + 0.1
    assert per["test: mix, phonemes of the lyric"] == pytest.approx(per["test: mix"])
    written = json.loads((tmp_path / "results" / "recogniser.json").read_text())
    assert written == result
    assert str(tmp_path) not in json.dumps(written)
    assert result["word_starts"]["median_error_s"] < 0.08
    remembered = json.loads((tmp_path / "ear" / "errors.json").read_text())
    assert set(remembered["heard_per_s"]) == {"instrumental", "sung"}
    assert "in sung songs" in recogniser_errors(tmp_path / "ear")
    assert remembered["per"]["test: mix"]["per"] == pytest.approx(per["test: mix"], abs=1e-6)
    _check_dropped_words(folder, Recogniser.from_pretrained(tmp_path / "ear"))


def _check_dropped_words(folder: Path, ear: Recogniser) -> None:
    """Every third word taken out of the mix: as many are missed, with their two phonemes.

    Measures that are not about words stay.
    """
    corpus = open_corpus(folder)
    dropped = wanted = 0
    before, after = [], []
    for song in corpus.songs:
        wave_CN = corpus.read(song)
        vocals_CN = corpus.read(song, "vocals")
        before.append(_heard(wave_CN, song.lyrics, ear))
        sung = song.truth()["words"]
        for word in sung[1::3]:
            start, end = (round(word[name] * SAMPLE_RATE_HZ) for name in ("start_s", "end_s"))
            wave_CN[:, start:end] -= vocals_CN[:, start:end]
        after.append(_heard(wave_CN, song.lyrics, ear))
        dropped, wanted = dropped + len(sung[1::3]), wanted + 2 * len(sung)
    skipped = [sum(one["words_skipped"] for one in each) for each in (before, after)]
    assert 0.7 * dropped <= skipped[1] - skipped[0] <= dropped, "a neighbour may lend its phonemes"
    heard = [sum(one["phonemes_heard"] for one in each) for each in (before, after)]
    assert heard[0] - heard[1] == pytest.approx(2 * dropped, abs=0.2 * dropped)
    rates = [np.mean([one["per"] for one in each]) for each in (before, after)]
    assert rates[1] - rates[0] == pytest.approx(2 * dropped / wanted, rel=0.1)
    for name, most in (("loudness_lufs", 2.0), ("flat_tops", 1e-5), ("stereo_width", 1e-3)):
        apart = [abs(one[name] - other[name]) for one, other in zip(before, after, strict=True)]
        assert max(apart) < most, name


def _heard(wave_CN: np.ndarray, lyrics: str, ear: Recogniser) -> dict[str, Any]:
    return {**asdict(listen(wave_CN)), **score_words(wave_CN, lyrics, [], ear)}


def test_a_corpus_without_words_is_refused(write_corpus: WriteCorpus) -> None:
    """Training an hour on nothing is worse than one clear line."""
    corpus = open_corpus(write_corpus(1, splits=("test",)))
    with pytest.raises(CorpusError, match="train split"):
        train_recogniser(corpus, RecogniserTraining(minutes=1), on_message=ignore_messages)
