"""A held-out song as the request that a user would have made for it."""

from __future__ import annotations

from typing import Protocol

from khala.song import SongRequest


class Described(Protocol):
    """A song of a corpus or of a folder of codes: what its prompt is made of."""

    @property
    def tags(self) -> tuple[str, ...]: ...

    @property
    def lyrics(self) -> str: ...

    @property
    def instrumental(self) -> bool: ...

    @property
    def language(self) -> str: ...

    @property
    def duration_s(self) -> float: ...


def request_of(song: Described, *, lyrics: str | None = None, seed: int = 0) -> SongRequest:
    """Return the request for a song, with its own lyrics or with others."""
    words = song.lyrics if lyrics is None else lyrics
    return SongRequest(
        prompt=", ".join(song.tags),
        lyrics="" if song.instrumental else words,
        duration_s=song.duration_s,
        instrumental=song.instrumental,
        language=song.language,
        seed=seed,
    )
