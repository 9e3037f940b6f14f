"""Songs on disk -> training examples: crops of sound for the codec, codes for the models."""

from khala.corpus.checks import SongLimits
from khala.corpus.codes import CodesDataset, CodesExample, open_codes
from khala.corpus.engines import Engine, Processes, RayCluster
from khala.corpus.excerpts import excerpts, line_excerpts, with_excerpts
from khala.corpus.prepare import Encoder, Report, prepare, write_codes
from khala.corpus.reading import HeldCodes
from khala.corpus.shards import PreparedSong
from khala.corpus.songs import HELD_OUT, SPLITS, Corpus, CorpusSong, open_corpus
from khala.corpus.sources import Source, find_items
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
    "Engine",
    "HeldCodes",
    "PreparedSong",
    "Processes",
    "RayCluster",
    "Report",
    "Section",
    "SongLimits",
    "Source",
    "Word",
    "excerpts",
    "find_items",
    "line_excerpts",
    "open_codes",
    "open_corpus",
    "prepare",
    "tokenise_corpus",
    "with_excerpts",
    "write_codes",
]
