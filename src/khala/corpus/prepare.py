"""Songs into shards of codes: checked, encoded once, sealed, and without the same song twice.

    OUT/plan.json        written first: what is prepared, and with which codec
    OUT/shard-*          see `khala.corpus.shards`; each is whole before the next file names it
    OUT/index.parquet    every song that is taken, in order: texts, lengths, shard and row
    OUT/report.json      what was refused, and why
    OUT/manifest.json    written last of all: sha256 of shards and index

Killed at any moment and started again, finished shards are verified and kept, and the folder ends
with the same bytes, however many processes worked on it. Memory holds one song's sound and one
shard's codes for each process.

Shape letters: C channels, N samples, Q levels, T frames.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from khala.corpus.checks import Refusal, SongLimits, check_sound
from khala.corpus.decode import decode_audio
from khala.corpus.describe import describe_item
from khala.corpus.engines import Engine, ThisProcess
from khala.corpus.fingerprint import Duplicate, find_duplicates, landmarks
from khala.corpus.places import Place, open_place
from khala.corpus.shards import (
    PreparedSong,
    Refused,
    Seal,
    read_table,
    shard_name,
    table_bytes,
    verified_seal,
    write_shard,
)
from khala.corpus.sources import Item, Source
from khala.errors import AudioError, CorpusError

__all__ = ["FORMAT", "Encoder", "Report", "prepare", "write_codes"]

FORMAT = 4
SONGS_PER_SHARD = 32

Progress = Callable[[int, int], None]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What became of the songs."""

    num_songs: int
    """Taken."""

    hours: float
    """Of those."""

    refused: tuple[Refused, ...]
    """Not taken, in the order of the source."""

    unused: tuple[str, ...]
    """Texts that belong to no song."""

    def by_reason(self) -> dict[str, int]:
        """Return how many songs were refused for which reason, the commonest first."""
        return dict(Counter(one.why for one in self.refused).most_common())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """The songs of one shard; pickled to whoever encodes them."""

    index: int
    items: tuple[Item, ...]
    source: str
    out: str
    open_encoder: Callable[[], Encoder]
    limits: SongLimits


def prepare(
    source: Source,
    out: str | Path,
    open_encoder: Callable[[], Encoder],
    *,
    limits: SongLimits | None = None,
    songs_per_shard: int = SONGS_PER_SHARD,
    keep_duplicates: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Report:
    """Encode a source into ``out``; keep the shards that are already there and whole.

    Args:
        source: what to encode; every split goes in, each song says which it is of.
        out: a folder, made if it is not there, or the URL of an object store.
        open_encoder: makes the codec; called in each process that encodes.
        limits: which songs are taken.
        songs_per_shard: a shard is the unit of resuming and of sharing work.
        keep_duplicates: take songs that are another recording of an earlier one too.
        engine: who works; this process if not given.
        progress: called with (songs done, songs in all).

    Raises:
        CorpusError: ``out`` holds codes of another source or codec, or no song can be taken.
        OSError: the disk is full or refuses; what was sealed before stays.
    """
    if songs_per_shard < 1:
        raise CorpusError(f"songs_per_shard must be at least 1, not {songs_per_shard}")
    limits = SongLimits() if limits is None else limits
    place = open_place(out, make=True)
    plan = {
        **_about(open_encoder()),
        "num_inputs": len(source.items),
        "num_shards": -(-len(source.items) // songs_per_shard),
        "inputs_sha256": source.digest(),
        "limits": asdict(limits),
        "keep_duplicates": keep_duplicates,
    }
    jobs = [
        _Job(
            index=index,
            items=source.items[index * songs_per_shard : (index + 1) * songs_per_shard],
            source=source.place.url,
            out=place.url,
            open_encoder=open_encoder,
            limits=limits,
        )
        for index in range(int(plan["num_shards"]))
    ]
    _agree(place, plan)
    seals = _sealed(place, jobs, ThisProcess() if engine is None else engine, progress)
    return _finish(place, plan, seals, source.unused)


def write_codes(
    out: str | Path,
    plan: Mapping[str, Any],
    songs: Callable[[int], Iterator[PreparedSong]],
    *,
    num_songs: int,
    progress: Progress | None = None,
) -> Report:
    """Write codes that were made elsewhere as `prepare` writes its own.

    Args:
        out: the folder or URL.
        plan: what a second start must agree with: "codec", "num_levels", "codebook_size",
            "num_shards", and whatever else the codes depend on.
        songs: gives the songs of a shard.
        num_songs: in all, for ``progress``.
        progress: called with (songs done, songs in all).

    Raises:
        CorpusError: ``out`` was begun with another plan, or ``songs`` raised it.
    """
    place = open_place(out, make=True)
    whole = {"format": FORMAT, "keep_duplicates": True, **plan}
    _agree(place, whole)
    seals: dict[int, Seal] = {}
    done = 0
    for index in range(int(plan["num_shards"])):
        seal, kept = verified_seal(place, index), list[PreparedSong]()
        if seal is None:
            for song in songs(index):
                kept.append(song)
                if progress is not None:
                    progress(done + len(kept), num_songs)
            seal = write_shard(place, index, kept, [])
        seals[index] = seal
        done += len(kept)
    return _finish(place, whole, seals, ())


def _about(encoder: Encoder) -> dict[str, Any]:
    """Return what a plan says of a codec."""
    return {
        "format": FORMAT,
        "codec": encoder.digest,
        "num_levels": encoder.num_levels,
        "codebook_size": encoder.codebook_size,
    }


def _agree(place: Place, plan: Mapping[str, Any]) -> None:
    """Write the plan, or refuse a folder that was begun with another one."""
    if place.has("plan.json"):
        try:
            old = json.loads(place.read("plan.json"))
        except ValueError as error:
            raise CorpusError(f"{place.url}/plan.json is damaged: {error}") from error
        different = [key for key in plan if not isinstance(old, dict) or old.get(key) != plan[key]]
        if different:
            raise CorpusError(
                f"{place.url} was prepared from something else ({', '.join(different)} differ): "
                "choose another folder"
            )
        return
    place.write("plan.json", (json.dumps(plan, indent=2) + "\n").encode())


def _sealed(
    place: Place, jobs: Sequence[_Job], engine: Engine, progress: Progress | None
) -> dict[int, Seal]:
    """Have every shard written that is not there yet; return all seals."""
    seals = {job.index: seal for job in jobs if (seal := verified_seal(place, job.index))}
    left = [job for job in jobs if job.index not in seals]
    total = sum(len(job.items) for job in jobs)
    done = total - sum(len(job.items) for job in left)

    def tell(num_songs: int = 1) -> None:
        nonlocal done
        done += num_songs
        if progress is not None:
            progress(done, total)

    tell(0)
    here = isinstance(engine, ThisProcess)
    for index, seal in engine.run(left, partial(_do, tell=tell) if here else _do):
        seals[index] = seal
        if not here:
            tell(len(jobs[index].items))
    return seals


def _do(job: _Job, tell: Callable[[], None] | None = None) -> tuple[int, Seal]:
    """Check and encode the songs of one shard, and write it."""
    source, encoder = open_place(job.source), job.open_encoder()
    songs: list[PreparedSong] = []
    refused: list[Refused] = []
    for item in job.items:
        try:
            songs.append(_prepared(source, item, encoder, job.limits))
        except Refusal as refusal:
            refused.append(Refused(id=item.id, why=refusal.why, detail=str(refusal)))
        if tell is not None:
            tell()
    return job.index, write_shard(open_place(job.out), job.index, songs, refused)


def _prepared(source: Place, item: Item, encoder: Encoder, limits: SongLimits) -> PreparedSong:
    """Return one song with its codes.

    Raises:
        Refusal: it cannot be taken.
    """
    try:
        song = describe_item(source, item)
    except CorpusError as error:
        raise Refusal(str(error), "text") from error
    wave_CN = _decoded(source, item, limits)
    loudness = check_sound(wave_CN, limits)
    codes_QT = np.asarray(encoder.encode(wave_CN))
    if codes_QT.ndim != 2 or codes_QT.shape[0] != encoder.num_levels or not codes_QT.shape[1]:
        raise CorpusError(f"song {song.id} gave codes of shape {codes_QT.shape}")
    if codes_QT.min() < 0 or codes_QT.max() >= encoder.codebook_size:
        raise CorpusError(f"song {song.id} gave codes outside [0, {encoder.codebook_size})")
    return PreparedSong(
        song=song,
        codes_QT=codes_QT,
        duration_s=wave_CN.shape[1] / 44_100,
        loudness_lufs=loudness,
        sound_sha256=hashlib.sha256(np.ascontiguousarray(wave_CN).data).hexdigest(),
        landmarks_L2=landmarks(wave_CN),
    )


def _decoded(source: Place, item: Item, limits: SongLimits) -> NDArray[np.float32]:
    """Return a song's sound; what is wrong with it is said without where it lies."""
    path = Path(item.audio)
    try:
        with source.fetched(item.audio) as path:
            return decode_audio(path, max_duration_s=limits.max_s)
    except (AudioError, CorpusError) as error:
        raise Refusal(str(error).replace(str(path), item.audio), "audio") from error


def _finish(
    place: Place, plan: Mapping[str, Any], seals: Mapping[int, Seal], unused: Sequence[str]
) -> Report:
    """Join the shards' indexes without songs that are there twice; write report and manifest."""
    columns: dict[str, list[Any]] = {}
    refused: list[Refused] = []
    for index in sorted(seals):
        name = shard_name(index)
        table = read_table(place.read(f"{name}.index.parquet"), f"{name}.index.parquet")
        num_rows = len(table["id"])
        table |= {"shard": [index] * num_rows, "row": list(range(num_rows))}
        for key, values in table.items():
            columns.setdefault(key, []).extend(values)
        lines = place.read(f"{name}.refused.jsonl").decode().splitlines()
        refused += [Refused(**json.loads(line)) for line in lines]
    told = [np.frombuffer(one, "<u4").reshape(-1, 2) for one in columns.pop("landmarks")]
    if not plan["keep_duplicates"]:
        twice = _twice(columns, told)
        refused += [twice[row] for row in sorted(twice)]
        kept = [row for row in range(len(told)) if row not in twice]
        columns = {key: [values[row] for row in kept] for key, values in columns.items()}
    hours = sum(columns["duration_s"]) / 3600
    report = Report(
        num_songs=len(columns["id"]), hours=hours, refused=tuple(refused), unused=tuple(unused)
    )
    place.write("report.json", _json({**asdict(report), "refused_for": report.by_reason()}))
    if not report.num_songs:
        first = refused[0]
        raise CorpusError(
            f"no song can be taken: {len(refused)} refused, the first one ({first.id}) as "
            f"{first.detail}; see {place.url}/report.json"
        )
    index_content = table_bytes(columns)
    place.write("index.parquet", index_content)
    files = {
        f"{shard_name(index)}.parquet": seals[index][f"{shard_name(index)}.parquet"]
        for index in sorted(seals)
    }
    files["index.parquet"] = {
        "sha256": hashlib.sha256(index_content).hexdigest(),
        "bytes": len(index_content),
    }
    place.write("manifest.json", _json({**plan, "num_songs": report.num_songs, "files": files}))
    return report


def _twice(columns: Mapping[str, list[Any]], told: Sequence[Any]) -> dict[int, Refused]:
    """Return the rows that are another recording of an earlier one."""
    found = {one.index: one for one in find_duplicates(told)}
    first: dict[str, int] = {}
    for row, digest in enumerate(columns["sound_sha256"]):
        if digest and first.setdefault(digest, row) != row:
            found[row] = Duplicate(row, first[digest], 1.0)
    names = columns["id"]
    return {
        row: Refused(
            id=names[row],
            why="duplicate",
            detail=f"the same recording as {names[one.of]} ({one.shared:.0%} of its landmarks)",
        )
        for row, one in found.items()
    }


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
