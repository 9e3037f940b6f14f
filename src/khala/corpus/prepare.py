"""Encode every song of a corpus once, into checked shards of codes.

    DIR/plan.json                  written first: what is encoded and with which codec
    DIR/shard-00000.safetensors    codes uint16 [Q, sum of T], offsets int64 [songs + 1]
    DIR/shard-00000.jsonl          one line a song: id, split, texts, frames
    DIR/shard-00000.sha256.json    written last of a shard: it is whole
    DIR/manifest.json              written last of all: sha256 of every file

Killed at any moment and started again, the finished shards are verified and kept, and the folder
ends with the same bytes. Shape letters: C channels, N samples, Q levels, T frames.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from khala.corpus.songs import Corpus, CorpusSong
from khala.errors import CorpusError

if TYPE_CHECKING:
    from khala.corpus.codes import CodesExample

__all__ = ["FORMAT", "Encoder", "describe", "prepare", "sha256_file", "write_codes"]

Codes = NDArray[np.integer[Any]]

FORMAT = 3
SONGS_PER_SHARD = 200


class Encoder(Protocol):
    """What turns sound into codes; a codec, without this room knowing codecs."""

    digest: str
    """Identifies the codec: codes of two codecs never mix."""

    num_levels: int
    """Q of the codes it gives."""

    codebook_size: int
    """Codes per level."""

    def encode(self, wave_CN: NDArray[np.float32]) -> NDArray[np.integer[Any]]:
        """Return codes_QT of one song, ceil(N / hop) frames."""
        ...


def prepare(
    corpus: Corpus,
    out: Path | str,
    encoder: Encoder,
    *,
    songs_per_shard: int = SONGS_PER_SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Encode a corpus into ``out``; keep the shards that are already there and whole.

    Args:
        corpus: what to encode; every split goes in, each song says which it is of.
        out: the folder of shards; made if it is not there.
        encoder: the codec.
        songs_per_shard: a shard is the unit of resuming.
        progress: called with (songs done, songs in all) after every song.

    Returns:
        ``out``, ready for `open_codes`.

    Raises:
        CorpusError: ``out`` holds codes of another corpus or codec, or a song cannot be encoded.
    """
    plan = _plan(corpus, encoder, songs_per_shard)

    def rows(index: int) -> Iterator[tuple[Codes, dict[str, Any]]]:
        first = index * songs_per_shard
        for song in corpus.songs[first : first + songs_per_shard]:
            yield _encoded(song, corpus, encoder)

    return write_codes(out, plan, rows, num_songs=len(corpus), progress=progress)


def write_codes(
    out: Path | str,
    plan: dict[str, Any],
    rows: Callable[[int], Iterator[tuple[Codes, dict[str, Any]]]],
    *,
    num_songs: int,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write shards of codes; keep those that are already there and whole.

    Args:
        out: the folder; made if it is not there.
        plan: what the manifest says, and what a second start must agree with: "num_shards", "codec"
            and the others of `prepare`.
        rows: gives the songs of a shard: codes_QT beside what a shard remembers of a song.
        num_songs: in all, for ``progress``.
        progress: called with (songs done, songs in all) after every song.

    Raises:
        CorpusError: ``out`` was begun with another plan, or ``rows`` raised it.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _agree(out / "plan.json", plan)
    files: dict[str, str] = {}
    done = 0
    for index in range(plan["num_shards"]):
        seal, kept = _verified_seal(out, index), []
        if seal is None:
            for row in rows(index):
                kept.append(row)
                if progress is not None:
                    progress(done + len(kept), num_songs)
            seal = _write_shard(out, index, kept)
            done += len(kept)
        else:
            done += len((out / f"shard-{index:05d}.jsonl").read_text("utf-8").splitlines())
            if progress is not None:
                progress(done, num_songs)
        files.update(seal)
    manifest = {**plan, "files": files}
    _write(out / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    return out


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plan(corpus: Corpus, encoder: Encoder, songs_per_shard: int) -> dict[str, Any]:
    """Say what the folder will hold, so that a second start can be refused or continued."""
    if songs_per_shard < 1:
        raise CorpusError(f"songs_per_shard must be at least 1, not {songs_per_shard}")
    described = "\n".join(json.dumps(describe(song, 0), sort_keys=True) for song in corpus.songs)
    return {
        "format": FORMAT,
        "codec": encoder.digest,
        "num_levels": encoder.num_levels,
        "codebook_size": encoder.codebook_size,
        "num_songs": len(corpus),
        "num_shards": -(-len(corpus) // songs_per_shard),
        "songs_sha256": hashlib.sha256(described.encode()).hexdigest(),
    }


def _agree(path: Path, plan: dict[str, Any]) -> None:
    """Write the plan, or refuse a folder that was begun with another one."""
    if path.is_file():
        try:
            old = json.loads(path.read_text())
        except ValueError as error:
            raise CorpusError(f"{path} is damaged: {error}") from error
        different = [key for key in plan if not isinstance(old, dict) or old.get(key) != plan[key]]
        if different:
            raise CorpusError(
                f"{path.parent} was prepared from something else ({', '.join(different)} differ): "
                "choose another folder"
            )
        return
    _write(path, (json.dumps(plan, indent=2) + "\n").encode())


def _verified_seal(out: Path, index: int) -> dict[str, str] | None:
    """Return the hashes of a finished shard whose files still agree with them, else None."""
    path = out / f"shard-{index:05d}.sha256.json"
    if not path.is_file():
        return None
    try:
        seal = json.loads(path.read_text())
        whole = all(sha256_file(out / name) == value for name, value in seal.items())
    except (OSError, ValueError, AttributeError):
        return None
    return seal if whole and len(seal) == 2 else None


def _encoded(song: CorpusSong, corpus: Corpus, encoder: Encoder) -> tuple[Codes, dict[str, Any]]:
    """Return the codes of a song beside its description."""
    codes_QT = np.asarray(encoder.encode(corpus.read(song)))
    if codes_QT.ndim != 2 or codes_QT.shape[0] != encoder.num_levels or not codes_QT.shape[1]:
        raise CorpusError(f"song {song.id} gave codes of shape {codes_QT.shape}")
    if codes_QT.min() < 0 or codes_QT.max() >= encoder.codebook_size:
        raise CorpusError(f"song {song.id} gave codes outside [0, {encoder.codebook_size})")
    return codes_QT, describe(song, codes_QT.shape[1])


def _write_shard(
    out: Path, index: int, rows: Sequence[tuple[Codes, dict[str, Any]]]
) -> dict[str, str]:
    """Write a shard's three files, the seal last."""
    tables = [codes_QT.astype(np.uint16) for codes_QT, _ in rows]
    lines = [json.dumps(line, sort_keys=True) for _, line in rows]
    offsets = np.cumsum([0, *(table.shape[1] for table in tables)]).astype(np.int64)
    name = f"shard-{index:05d}"
    codes = np.ascontiguousarray(np.concatenate(tables, axis=1))
    _write(out / f"{name}.safetensors", save_tensors({"codes": codes, "offsets": offsets}))
    _write(out / f"{name}.jsonl", ("\n".join(lines) + "\n").encode())
    seal = {file: sha256_file(out / file) for file in (f"{name}.safetensors", f"{name}.jsonl")}
    _write(out / f"{name}.sha256.json", (json.dumps(seal, indent=2) + "\n").encode())
    return seal


def describe(song: CorpusSong | CodesExample, num_frames: int) -> dict[str, Any]:
    """Return what a shard remembers of a song."""
    return {
        "id": song.id,
        "folder": None if song.truth_path is None else song.truth_path.parent.name,
        "split": song.split,
        "tags": list(song.tags),
        "description": song.description,
        "lyrics": song.lyrics,
        "instrumental": song.instrumental,
        "language": song.language,
        "duration_s": song.duration_s,
        "num_frames": num_frames,
        "sections": [[part.start_s, part.end_s, part.lyrics] for part in song.sections],
        "words": [[word.text, word.start_s, word.end_s] for word in song.words],
        "phonemes": [[sound.text, sound.start_s, sound.end_s] for sound in song.phonemes],
        "chords": [[chord.text, chord.start_s, chord.end_s] for chord in song.chords],
        "beats_s": list(song.beats_s),
    }


def _write(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
