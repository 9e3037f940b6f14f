"""Whoever listens to a song: signal measures, the ear for words, the tagger, and sets of songs.

Shape letters, this file only: C channels, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from khala.evals.distances import Wave
from khala.evals.embedding import Embedding
from khala.evals.listening import listen
from khala.evals.named import score_names
from khala.evals.pretrained import PretrainedEmbedding
from khala.evals.recogniser import Recogniser
from khala.evals.scorer import Scorer
from khala.evals.sets import SetsOfSongs
from khala.evals.sung import score_words
from khala.evals.tagger import Tagger
from khala.evals.transcriber import Transcriber, score_transcript
from khala.evals.wanted import Wanted, agreement

__all__ = ["Listeners", "open_listeners", "score_song"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """Whoever listens beside the signal measures."""

    ear: Recogniser | None
    """Hears words."""

    tagger: Tagger | None
    """Hears instruments and style."""

    transcriber: Transcriber | None
    """Hears words too, by somebody else's model."""

    scorer: Scorer | None
    """Gives marks, by somebody else's program."""

    sets: SetsOfSongs
    """Compares all songs with all originals."""


def open_listeners(
    recogniser: Path | None,
    tagger: Path | None,
    embedding: Path | None,
    transcriber: Path | None = None,
    scorer: str | None = None,
    *,
    in_sets: bool,
) -> Listeners:
    """Read the models that listen from their folders; with ``in_sets`` they compare sets too.

    Raises:
        CheckpointError: a model cannot be read.
        ConfigError: a model for transformers is given and that is not installed, or the scorer is
            not of its form.
    """
    marks_by = None if scorer is None else Scorer.parse(scorer)
    heard_by = None if tagger is None else Tagger.from_pretrained(tagger)
    by: list[Embedding] = [] if heard_by is None else [heard_by]
    by += [] if embedding is None else [PretrainedEmbedding.from_folder(embedding)]
    return Listeners(
        ear=None if recogniser is None else Recogniser.from_pretrained(recogniser),
        tagger=heard_by,
        transcriber=None if transcriber is None else Transcriber.from_folder(transcriber),
        scorer=marks_by,
        sets=SetsOfSongs(by if in_sets else []),
    )


def score_song(
    wave_CN: Wave, wanted: Wanted, lyrics: Sequence[str], listeners: Listeners
) -> dict[str, Any]:
    """Return everything that is heard of one song, as plain values.

    Args:
        wave_CN: the song.
        wanted: what it was asked to be.
        lyrics: of all songs, its own too: other songs' words are the ceiling of its error rate.
        listeners: phonemes are left out without an ear, words without a transcriber, instruments
            and style without a tagger.
    """
    ear, tagger = listeners.ear, listeners.tagger
    heard = listen(wave_CN)
    words = {} if ear is None else score_words(wave_CN, wanted.lyrics, lyrics, ear)
    if listeners.transcriber is not None:
        heard_words = listeners.transcriber.transcribe(wave_CN)
        words |= score_transcript(heard_words, wanted.lyrics, lyrics)
    tags = None if tagger is None else tagger.hear(wave_CN)
    voice_heard = None if tags is None else tags.sings
    agrees = agreement(heard, wanted, words.get("phonemes_heard"), voice_heard=voice_heard)
    if tagger is not None and tags is not None:
        agrees |= score_names(tags, wanted, tagger.config)
    faults = [*heard.faults(), *(["duration"] if agrees["duration_right"] is False else [])]
    return {
        "instrumental": wanted.instrumental,
        **asdict(heard),
        **agrees,
        **words,
        "faults": faults,
    }
