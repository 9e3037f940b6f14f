"""The recogniser must learn to hear, and say honestly how well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from khala.corpus import open_corpus
from khala.errors import CorpusError
from khala.evals.recogniser import evaluation, own_errors
from khala.evals.recogniser.lyrics import collect_words
from khala.evals.recogniser.model import STEP_S, Recogniser, RecogniserConfig
from khala.evals.recogniser.training import (
    RecogniserTraining,
    crop,
    load_example,
    train_recogniser,
)
from khala.evals.report import ignore_messages

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
    assert "in sung songs" in own_errors(tmp_path / "ear")
    assert remembered["per"]["test: mix"]["per"] == pytest.approx(per["test: mix"], abs=1e-6)


def test_a_corpus_without_words_is_refused(write_corpus: WriteCorpus) -> None:
    """Training an hour on nothing is worse than one clear line."""
    corpus = open_corpus(write_corpus(1, splits=("test",)))
    with pytest.raises(CorpusError, match="train split"):
        train_recogniser(corpus, RecogniserTraining(minutes=1), on_message=ignore_messages)
