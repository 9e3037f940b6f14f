"""A user's own folder of songs, read as a corpus.

Beside ``song.flac`` (or wav, mp3, ogg, opus) may stand

    song.json    {"tags": [...] or "a, b", "description": "...", "lyrics": "...",
                  "instrumental": false, "language": "en"}; every key may be left out
    song.txt     the lyrics, if there is no "lyrics" in the JSON

A song with neither lyrics nor "instrumental": false is taken as instrumental. One song in forty,
chosen by its name and not by chance, is kept for validation.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import soundfile

from khala.audio import read_audio
from khala.corpus.songs import SAMPLE_RATE_HZ, Corpus, CorpusSong
from khala.errors import CorpusError

__all__ = ["ENDINGS", "describe_file", "open_folder"]

ENDINGS = (".flac", ".wav", ".mp3", ".ogg", ".opus")
KEYS = {"tags", "description", "lyrics", "instrumental", "language"}
HELD_OUT_EVERY = 40
MAX_DURATION_S = 3600.0


def open_folder(folder: Path | str) -> Corpus:
    """Open every audio file under ``folder`` as a song.

    Raises:
        CorpusError: no audio, a damaged sidecar, or vocals announced without lyrics.
    """
    folder = Path(folder)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    if not paths:
        raise CorpusError(f"{folder} holds no audio file ({', '.join(ENDINGS)})")
    songs = [describe_file(path, path.relative_to(folder).as_posix()) for path in paths]
    return Corpus(
        folder,
        songs,
        read_whole=lambda path: read_audio(
            path, sample_rate_hz=SAMPLE_RATE_HZ, max_duration_s=MAX_DURATION_S
        ),
    )


def describe_file(path: Path, name: str) -> CorpusSong:
    """Describe one audio file from what stands beside it; ``name`` becomes its id.

    Raises:
        CorpusError: it cannot be read, or what stands beside it is damaged.
    """
    known = _sidecar(path)
    lyrics = str(known.get("lyrics", "")).strip()
    instrumental = known.get("instrumental", not lyrics)
    if not isinstance(instrumental, bool):
        raise CorpusError(f"{path}: instrumental must be true or false, not {instrumental!r}")
    if not instrumental and not lyrics:
        raise CorpusError(f"{path} is not instrumental and has no lyrics: add a .txt beside it")
    tags = known.get("tags", [])
    if isinstance(tags, str):
        tags = [tag.strip() for tag in tags.split(",") if tag.strip()]
    try:
        duration_s = float(soundfile.info(path).duration)
    except (soundfile.SoundFileError, OSError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error
    return CorpusSong(
        id=name,
        split="test" if zlib.crc32(name.encode()) % HELD_OUT_EVERY == 0 else "train",
        duration_s=duration_s,
        tags=tuple(str(tag) for tag in tags),
        description=str(known.get("description", "")),
        lyrics="" if instrumental else lyrics,
        instrumental=instrumental,
        language=str(known.get("language", "en")),
        audio={"mix": path},
        truth_path=None,
    )


def _sidecar(path: Path) -> dict[str, Any]:
    """Read the JSON and text beside an audio file."""
    known: dict[str, Any] = {}
    try:
        if path.with_suffix(".json").is_file():
            known = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if path.with_suffix(".txt").is_file() and isinstance(known, dict):
            known.setdefault("lyrics", path.with_suffix(".txt").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot read what stands beside {path}: {error}") from error
    if not isinstance(known, dict) or known.keys() - KEYS:
        raise CorpusError(f"{path.with_suffix('.json')} may hold only {', '.join(sorted(KEYS))}")
    return known
