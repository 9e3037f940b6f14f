"""A tagger, the ear that hears what a song is made of; its embedding compares sets of songs."""

from khala.evals.tagger.evaluation import TaggerEval, how_well_it_hears, run_tagger_eval
from khala.evals.tagger.model import HeardTags, Tagger, TaggerConfig
from khala.evals.tagger.training import TaggerTraining, train_tagger

__all__ = [
    "HeardTags",
    "Tagger",
    "TaggerConfig",
    "TaggerEval",
    "TaggerTraining",
    "how_well_it_hears",
    "run_tagger_eval",
    "train_tagger",
]
