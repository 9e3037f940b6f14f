"""Songs on disk -> training examples: crops of sound for the codec, codes for the models."""

from khala.corpus.codes import CodesDataset, CodesExample, open_codes
from khala.corpus.excerpts import excerpts, line_excerpts, with_excerpts
from khala.corpus.prepare import Encoder, prepare
from khala.corpus.songs import HELD_OUT, SPLITS, Corpus, CorpusSong, open_corpus
from khala.corpus.timing import Section, Word
from khala.corpus.tokenise import CodecEncoder, tokenise_corpus

__all__ = [
    "HELD_OUT",
    "SPLITS",
    "CodecEncoder",
    "CodesDataset",
    "CodesExample",
    "Corpus",
    "CorpusSong",
    "Encoder",
    "Section",
    "Word",
    "excerpts",
    "line_excerpts",
    "open_codes",
    "open_corpus",
    "prepare",
    "tokenise_corpus",
    "with_excerpts",
]
