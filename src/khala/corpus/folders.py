"""A user's own folder of songs, read as a corpus: see `khala.corpus.sources` for what may be there.

A song with neither lyrics nor "instrumental": false is taken as instrumental.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import soundfile

from khala.corpus.decode import AUDIO_ENDINGS, OWN_ENDINGS, decode_audio
from khala.corpus.describe import describe_item
from khala.corpus.places import LocalPlace
from khala.corpus.songs import Corpus, CorpusSong
from khala.corpus.sources import Item, find_items, item_of
from khala.errors import AudioError, CorpusError

__all__ = ["AUDIO_ENDINGS", "describe_file", "open_folder"]

MAX_DURATION_S = 3600.0


def open_folder(folder: Path | str) -> Corpus:
    """Open every audio file under ``folder`` as a song.

    Raises:
        CorpusError: no audio, a damaged sidecar, or vocals announced without lyrics.
    """
    source = find_items(Path(folder))
    songs = [_described(Path(folder), item) for item in source.items]
    return Corpus(
        Path(folder),
        songs,
        read_whole=lambda path: decode_audio(path, max_duration_s=MAX_DURATION_S),
    )


def describe_file(path: Path, name: str) -> CorpusSong:
    """Describe one audio file from what stands beside it; ``name`` becomes its id.

    Raises:
        CorpusError: it cannot be read, or what stands beside it is damaged.
    """
    return replace(_described(path.parent, item_of(path)), id=name)


def _described(folder: Path, item: Item) -> CorpusSong:
    """Return what is known of a song, with its length and where it lies."""
    path = folder / item.audio
    song = describe_item(LocalPlace(folder), item)
    return replace(song, duration_s=_duration_s(path), audio={"mix": path})


def _duration_s(path: Path) -> float:
    """Return a file's length: from its header, or by decoding what only FFmpeg reads."""
    try:
        if path.suffix.lower() in OWN_ENDINGS:
            return float(soundfile.info(path).duration)
        return decode_audio(path, max_duration_s=MAX_DURATION_S).shape[1] / 44_100
    except (soundfile.SoundFileError, OSError, AudioError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error
