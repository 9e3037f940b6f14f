"""Khala: full songs from text and lyrics, through one hierarchy of acoustic tokens.

    from khala import Khala, SongRequest

    model = Khala.from_pretrained("nano")
    song = model.generate(SongRequest(prompt="pop, piano", lyrics="[Verse]\\nGood morning, sun"))
    model.write(song, "song.wav")

Importing this package imports no torch: the models are loaded when their name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from khala.errors import KhalaError
from khala.song import Song, SongRequest

if TYPE_CHECKING:
    from khala.backbone import Backbone
    from khala.codec import Codec
    from khala.infer import Khala
    from khala.superres import SuperResolution

__all__ = [
    "Backbone",
    "Codec",
    "Khala",
    "KhalaError",
    "Song",
    "SongRequest",
    "SuperResolution",
    "__version__",
]

__version__ = "0.1.0"

_LAZY = (
    ("Backbone", "khala.backbone"),
    ("Codec", "khala.codec"),
    ("Khala", "khala.infer"),
    ("SuperResolution", "khala.superres"),
)


def __getattr__(name: str) -> Any:
    for known, module in _LAZY:
        if name == known:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'khala' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
