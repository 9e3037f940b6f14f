"""Shards of prepared songs: Parquet files, each sealed when it is whole.

    shard-00000.parquet         codes, texts and lengths, one row group a song
    shard-00000.index.parquet   the same without the codes, and the songs' landmarks
    shard-00000.refused.jsonl   what was not taken, and why
    shard-00000.sha256.json     sizes and hashes of the three, written last

Codes are bytes: unsigned 16-bit little-endian numbers [Q, T], row after row. Shape letters: Q
levels, T frames, L landmarks.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from khala.corpus.places import Place
from khala.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from khala.corpus.codes import CodesExample
    from khala.corpus.songs import CorpusSong

__all__ = ["PreparedSong", "Refused", "Seal", "columns_of", "read_table", "table_bytes"]
__all__ += ["codes_from_bytes", "parquet", "shard_name", "verified_seal", "write_shard"]

Codes = NDArray[np.integer[Any]]
Seal = dict[str, dict[str, Any]]
"""By file: "sha256" and "bytes"."""

COMPRESSION = "zstd"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedSong:
    """One song as a shard keeps it."""

    song: CorpusSong | CodesExample
    """Its texts and times."""

    codes_QT: Codes
    """Its codes."""

    duration_s: float
    """Length of its sound."""

    loudness_lufs: float | None = None
    """Integrated loudness, where the sound was heard."""

    sound_sha256: str = ""
    """Of the decoded sound, likewise."""

    landmarks_L2: NDArray[np.uint32] | None = None
    """For finding the same recording again, likewise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """One song that was not taken."""

    id: str
    why: str
    """One word: audio, text, length, silence, loudness, codes or duplicate."""

    detail: str
    """What was wrong and what is allowed."""


def parquet() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet reader.

    Raises:
        ConfigError: they are not installed.
    """
    try:
        arrow = importlib.import_module("pyarrow")
        return arrow, importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError("prepared songs need pyarrow: pip install 'khala[train]'") from error


def shard_name(index: int) -> str:
    """Return the name that all files of a shard begin with."""
    return f"shard-{index:05d}"


def write_shard(
    place: Place, index: int, songs: Sequence[PreparedSong], refused: Sequence[Refused]
) -> Seal:
    """Write the files of a shard, the seal last; return the seal."""
    name = shard_name(index)
    columns = columns_of(songs)
    told = {"landmarks": [_landmark_bytes(one) for one in songs]}
    codes = {"codes": [_code_bytes(one.codes_QT) for one in songs]}
    lines = [json.dumps({"id": one.id, "why": one.why, "detail": one.detail}) for one in refused]
    contents = {
        f"{name}.parquet": table_bytes({**columns, **codes}, rows_per_group=1),
        f"{name}.index.parquet": table_bytes({**columns, **told}),
        f"{name}.refused.jsonl": "".join(f"{line}\n" for line in lines).encode(),
    }
    seal: Seal = {}
    for file, content in contents.items():
        place.write(file, content)
        seal[file] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    place.write(f"{name}.sha256.json", (json.dumps(seal, indent=2) + "\n").encode())
    return seal


def verified_seal(place: Place, index: int) -> Seal | None:
    """Return the seal of a finished shard whose files still agree with it, else None."""
    path = f"{shard_name(index)}.sha256.json"
    if not place.has(path):
        return None
    try:
        seal: Seal = json.loads(place.read(path))
        whole = len(seal) == 3 and all(
            place.holds(name, one["sha256"], one["bytes"]) for name, one in seal.items()
        )
    except (CorpusError, ValueError, AttributeError, KeyError, TypeError):
        return None
    return seal if whole else None


def columns_of(songs: Sequence[PreparedSong]) -> dict[str, list[Any]]:
    """Return what is known of songs, by column, without their codes."""
    kept = [one.song for one in songs]
    return {
        "id": [song.id for song in kept],
        "split": [song.split for song in kept],
        "tags": [list(song.tags) for song in kept],
        "description": [song.description for song in kept],
        "lyrics": [song.lyrics for song in kept],
        "instrumental": [song.instrumental for song in kept],
        "language": [song.language for song in kept],
        "duration_s": [one.duration_s for one in songs],
        "num_frames": [int(one.codes_QT.shape[1]) for one in songs],
        "times": [_times(song) for song in kept],
        "truth": [
            None if song.truth_path is None else song.truth_path.parent.name for song in kept
        ],
        "loudness_lufs": [one.loudness_lufs for one in songs],
        "sound_sha256": [one.sound_sha256 for one in songs],
    }


def table_bytes(columns: Mapping[str, list[Any]], *, rows_per_group: int = 4096) -> bytes:
    """Return a Parquet file of some columns; the same columns give the same bytes."""
    arrow, files = parquet()
    kinds = {
        "tags": arrow.list_(arrow.string()),
        "instrumental": arrow.bool_(),
        "duration_s": arrow.float64(),
        "num_frames": arrow.int32(),
        "loudness_lufs": arrow.float32(),
        "landmarks": arrow.binary(),
        "codes": arrow.large_binary(),
        "shard": arrow.int32(),
        "row": arrow.int32(),
    }
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in columns])
    memory = io.BytesIO()
    files.write_table(
        arrow.table(dict(columns), schema=schema),
        memory,
        row_group_size=rows_per_group,
        compression=COMPRESSION,
        use_dictionary=False,
        write_statistics=False,
    )
    return memory.getvalue()


def read_table(content: bytes, what: str) -> dict[str, list[Any]]:
    """Return the columns of a Parquet file.

    Raises:
        CorpusError: it is none.
    """
    arrow, files = parquet()
    try:
        columns: dict[str, list[Any]] = files.read_table(io.BytesIO(content)).to_pydict()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise CorpusError(f"{what} is no Parquet file: {error}") from error
    return columns


def codes_from_bytes(content: bytes, num_levels: int, num_frames: int) -> NDArray[np.uint16]:
    """Return codes_QT.

    Raises:
        CorpusError: the bytes are not as many.
    """
    if len(content) != 2 * num_levels * num_frames:
        raise CorpusError(f"{len(content)} bytes are not {num_levels} x {num_frames} codes")
    return np.frombuffer(content, dtype="<u2").reshape(num_levels, num_frames)


def _code_bytes(codes_QT: Codes) -> bytes:
    return np.ascontiguousarray(codes_QT).astype("<u2").tobytes()


def _landmark_bytes(one: PreparedSong) -> bytes:
    if one.landmarks_L2 is None:
        return b""
    return np.ascontiguousarray(one.landmarks_L2).astype("<u4").tobytes()


def _times(song: CorpusSong | CodesExample) -> str:
    """Return sections, words, phonemes, chords and beats as JSON; empty where none is known."""
    times = {
        "sections": [[part.start_s, part.end_s, part.lyrics] for part in song.sections],
        "words": [[word.text, word.start_s, word.end_s] for word in song.words],
        "phonemes": [[sound.text, sound.start_s, sound.end_s] for sound in song.phonemes],
        "chords": [[chord.text, chord.start_s, chord.end_s] for chord in song.chords],
        "beats_s": list(song.beats_s),
    }
    return json.dumps(times) if any(times.values()) else ""
