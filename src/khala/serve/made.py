"""What a file says about how it was made: in signed assertions, and in plain tags.

Nobody's words are in it: no lyrics, no prompt, no name of a person, no path of a computer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from khala import __version__
from khala.errors import RequestError
from khala.hub import is_hub_id
from khala.song import Song, check_text

__all__ = [
    "ACTIONS",
    "DISCLOSURE",
    "GENERATED",
    "RESHAPED",
    "SONG",
    "SOURCE_TYPES",
    "Made",
]

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED, RESHAPED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
"""IPTC's words for what a model made, and for a recording that a model went over."""

ACTIONS, DISCLOSURE, SONG = "c2pa.actions.v2", "c2pa.ai-disclosure", "khala.song"
"""Labels of what is asserted; the last one is ours."""

MAX_CHARS = 200
"""Of a title, and of the name of a model."""

_ID = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"[a-z][a-z0-9_.]{0,39}")
_DIGEST = re.compile(r"[0-9A-Za-z@.:+-]{1,500}")


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a file says about how it was made.

    Raises:
        RequestError: a field that no song can have.
    """

    song_id: str
    """32 hexadecimal digits."""

    model: str
    """Name of the model; of a folder only the last part is kept, so no path of a computer leaks."""

    digests: Mapping[str, str]
    """Digests of the model's parts, as in ``Song.digests``."""

    made_at: datetime
    """When, with a time zone; kept in UTC and whole seconds."""

    levels: int
    seed: int
    title: str = ""
    """Goes into the file as it is, so it must not be taken from lyrics or prompt; empty: "Khala
    song" and the first digits of the id."""

    from_recording: bool = False
    """The song was encoded from a recording, not generated."""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.song_id):
            raise RequestError(f"song_id is {self.song_id!r}: 32 hexadecimal digits are allowed")
        name = self.model if is_hub_id(self.model) else Path(self.model).name
        check_text("model", name)
        check_text("title", self.title)
        if not 0 < len(name) <= MAX_CHARS or len(self.title) > MAX_CHARS:
            raise RequestError(f"model and title have at most {MAX_CHARS} characters")
        if "\n" in self.title or "\r" in self.title:
            raise RequestError("the title has several lines: one is allowed")
        for part, digest in self.digests.items():
            if not _PART.fullmatch(part) or not _DIGEST.fullmatch(digest):
                raise RequestError(f"{part!r}: {digest!r} is not the digest of a model's part")
        if self.made_at.tzinfo is None:
            raise RequestError(f"made_at is {self.made_at}: it needs a time zone")
        object.__setattr__(self, "model", name)
        object.__setattr__(self, "digests", dict(self.digests))
        object.__setattr__(self, "made_at", self.made_at.astimezone(UTC).replace(microsecond=0))
        object.__setattr__(self, "title", self.title or f"Khala song {self.song_id[:8]}")

    @classmethod
    def of_song(cls, song: Song, *, song_id: str, made_at: datetime, title: str = "") -> Self:
        """Say it of a song."""
        return cls(
            song_id=song_id,
            model=song.model,
            digests=song.digests,
            made_at=made_at,
            levels=song.num_levels,
            seed=song.seed,
            title=title,
            from_recording=song.ended == "recording",
        )

    @property
    def when(self) -> str:
        """When it was made, as RFC 3339 writes it."""
        return self.made_at.strftime("%Y-%m-%dT%H:%M:%SZ")

    def tags(self) -> dict[str, str]:
        """Return the plain tags of the file: for players, unsigned; for `encode_audio`."""
        parts = ", ".join(f"{part} {digest[:12]}" for part, digest in sorted(self.digests.items()))
        how = "Recording reshaped by AI" if self.from_recording else "AI-generated"
        return {
            "title": self.title,
            "artist": f"Khala ({how})",
            "comment": f"{how} with Khala {__version__}, model {self.model} ({parts})",
            "date": self.made_at.date().isoformat(),
        }

    def manifest(self, mime_type: str) -> str:
        """Return what is signed, as the JSON that c2pa reads."""
        agent = {"name": "Khala", "version": __version__}
        action = {
            "action": "c2pa.created",
            "when": self.when,
            "softwareAgent": agent,
            "digitalSourceType": SOURCE_TYPES + (RESHAPED if self.from_recording else GENERATED),
        }
        disclosure = {
            "modelType": "c2pa.types.model.pytorch",
            "modelName": self.model,
            "contentProfile": {"humanOversightLevel": "prompt_guided"},
        }
        song = {
            "id": self.song_id,
            "digests": dict(sorted(self.digests.items())),
            "levels": self.levels,
            "seed": self.seed,
        }
        told = {ACTIONS: {"actions": [action]}, DISCLOSURE: disclosure, SONG: song}
        return json.dumps(
            {
                "claim_generator_info": [agent],
                "title": self.title,
                "format": mime_type,
                "assertions": [
                    {"label": label, "data": data, "created": True} for label, data in told.items()
                ],
            }
        )
