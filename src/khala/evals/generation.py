"""Songs from held-out requests: which are asked for, and each made once.

Shape letters, this file only: C channels, N samples.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from khala.corpus import HELD_OUT, Corpus, CorpusSong
from khala.errors import CorpusError, RequestError
from khala.evals.distances import Wave
from khala.evals.prompts import request_of
from khala.song import Song, SongRequest

__all__ = ["Maker", "choose_requests", "make_song"]


class Maker(Protocol):
    """What is needed of a pipeline."""

    def check(self, request: SongRequest) -> None: ...

    def generate(self, request: SongRequest) -> Song: ...

    def decode(self, song: Song) -> Wave: ...


def choose_requests(
    corpus: Corpus,
    maker: Maker,
    num_songs: int,
    *,
    seconds: float | None = None,
    levels: int = 64,
    seed: int = 0,
) -> list[tuple[CorpusSong, SongRequest]]:
    """Return held-out songs, in turn from every split, with the requests made for them.

    Raises:
        CorpusError: there is none that the model can make.
    """
    by_split = [corpus.split(split) for split in HELD_OUT]
    longest = max(len(songs) for songs in by_split)
    asked: list[tuple[CorpusSong, SongRequest]] = []
    for song in (songs[at] for at in range(longest) for songs in by_split if at < len(songs)):
        if len(asked) == num_songs:
            break
        if seconds is not None and song.duration_s > seconds:
            continue
        request = replace(request_of(song, seed=seed + len(asked)), levels=levels)
        try:
            maker.check(request)
        except RequestError:
            continue
        asked.append((song, request))
    if not asked:
        raise CorpusError(f"{corpus.folder} has no held-out song that this model can be asked for")
    return asked


def make_song(maker: Maker, song: CorpusSong, request: SongRequest, audio: Path | None) -> Song:
    """Return the song for a request, from ``audio`` if it was made before for the same request."""
    path = None if audio is None else audio / f"{song.id}.khala"
    if path is not None and path.is_file():
        before = Song.load(path)
        if before.request == request:
            return before
    made = maker.generate(request)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path)
    return made
