"""A phoneme recogniser, the ear that hears whether a song sings its lyrics."""

from khala.evals.recogniser.evaluation import RecogniserEval, recogniser_errors, run_recogniser_eval
from khala.evals.recogniser.lyrics import collect_words, lyric_words, pronounce, sung_phonemes
from khala.evals.recogniser.model import Recogniser, RecogniserConfig
from khala.evals.recogniser.scoring import (
    ErrorRate,
    edit_distance,
    error_rate,
    shuffled_error_rate,
)
from khala.evals.recogniser.timing import TimedWord, lrc_text, time_words
from khala.evals.recogniser.training import RecogniserTraining, train_recogniser

__all__ = [
    "ErrorRate",
    "Recogniser",
    "RecogniserConfig",
    "RecogniserEval",
    "RecogniserTraining",
    "TimedWord",
    "collect_words",
    "edit_distance",
    "error_rate",
    "lrc_text",
    "lyric_words",
    "pronounce",
    "recogniser_errors",
    "run_recogniser_eval",
    "shuffled_error_rate",
    "sung_phonemes",
    "time_words",
    "train_recogniser",
]
