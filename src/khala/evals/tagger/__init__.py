"""A tagger, the ear that hears what a song is made of; its embedding compares sets of songs."""

from khala.evals.tagger.evaluation import TaggerEval, run_tagger_eval, tagger_errors
from khala.evals.tagger.model import HeardTags, Tagger, TaggerConfig
from khala.evals.tagger.training import TaggerTraining, train_tagger

__all__ = [
    "HeardTags",
    "Tagger",
    "TaggerConfig",
    "TaggerEval",
    "TaggerTraining",
    "run_tagger_eval",
    "tagger_errors",
    "train_tagger",
]
