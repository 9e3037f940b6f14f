"""Prepared songs to train on: texts in memory, codes read when they are asked for.

Shape letters: Q levels, T frames.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from khala.corpus.places import Place, open_place
from khala.corpus.prepare import FORMAT
from khala.corpus.reading import HeldCodes, ShardReader, StoredCodes
from khala.corpus.shards import read_table, shard_name
from khala.corpus.timing import Section, Word
from khala.errors import CorpusError

__all__ = ["CodesDataset", "CodesExample", "open_codes"]

VERIFIERS = 8
"""Threads that hash shards: hashing waits for the disk and lets other threads run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodesExample:
    """One prepared song."""

    id: str
    split: str
    codes: HeldCodes | StoredCodes
    """Its codes, in memory or on the disk."""

    tags: tuple[str, ...]
    description: str
    lyrics: str
    instrumental: bool
    language: str
    duration_s: float
    truth_path: Path | None
    sections: tuple[Section, ...] = ()
    words: tuple[Word, ...] = ()
    phonemes: tuple[Word, ...] = ()
    chords: tuple[Word, ...] = ()
    beats_s: tuple[float, ...] = ()

    @property
    def codes_QT(self) -> NDArray[np.uint16]:
        """The codes.

        Raises:
            CorpusError: the shard was removed or damaged since it was opened.
        """
        return self.codes.array()

    @property
    def num_frames(self) -> int:
        """Length in frames, without reading the codes."""
        return self.codes.num_frames


class CodesDataset:
    """Every prepared song, in the corpus's order."""

    def __init__(
        self,
        examples: list[CodesExample],
        *,
        num_levels: int,
        codebook_size: int,
        codec_digest: str,
        digest: str,
    ) -> None:
        self.examples = examples
        self.num_levels = num_levels
        self.codebook_size = codebook_size
        self.codec_digest = codec_digest
        self.digest = digest
        """Identifies all of it: a run never goes on with other data."""

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> CodesExample:
        return self.examples[index]

    def __iter__(self) -> Iterator[CodesExample]:
        return iter(self.examples)

    def split(self, name: str) -> list[CodesExample]:
        """Return the examples of one split; an unknown split is simply empty."""
        return [example for example in self.examples if example.split == name]


def open_codes(url: Path | str, *, corpus_dir: Path | None = None) -> CodesDataset:
    """Open prepared codes; every local shard is verified against the manifest first.

    Shards of an object store are verified when they are fetched, before they are used.

    Args:
        url: the folder or URL that `prepare` wrote.
        corpus_dir: where the songs themselves are, for ``truth_path``; not needed to train.

    Raises:
        CorpusError: unfinished, damaged or missing shards; the message names the file.
    """
    place = open_place(url)
    content, manifest = _manifest(place)
    files: dict[str, dict[str, Any]] = manifest["files"]
    _verify(place, files)
    reader = ShardReader(place, files, num_levels=int(manifest["num_levels"]))
    table = read_table(place.read("index.parquet"), f"{place.url}/index.parquet")
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    if len(rows) != manifest["num_songs"]:
        raise CorpusError(f"{place.url} lists {len(rows)} songs of {manifest['num_songs']}")
    return CodesDataset(
        [_example(row, reader, corpus_dir) for row in rows],
        num_levels=manifest["num_levels"],
        codebook_size=manifest["codebook_size"],
        codec_digest=manifest["codec"],
        digest=content,
    )


def _verify(place: Place, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare every file with the manifest."""
    with ThreadPoolExecutor(VERIFIERS) as pool:
        found = pool.map(
            lambda one: place.holds(one[0], one[1]["sha256"], one[1]["bytes"]), files.items()
        )
    for name, holds in zip(files, found, strict=True):
        if not holds:
            state = "damaged" if place.has(name) else "missing"
            raise CorpusError(f"a shard is {state}: {place.url}/{name}; run khala prepare again")


def _manifest(place: Place) -> tuple[str, dict[str, Any]]:
    """Read and check the manifest; return it with its sha256."""
    path = f"{place.url}/manifest.json"
    if not place.has("manifest.json"):
        hint = "unfinished: run khala prepare again" if place.has("plan.json") else ""
        raise CorpusError(f"{place.url} holds no prepared codes (no manifest.json) {hint}".rstrip())
    content = place.read("manifest.json")
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise CorpusError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CorpusError(
            f"{path} is of another version (known: {FORMAT}): prepare the songs again, elsewhere"
        )
    keys = {"files", "num_shards", "num_songs", "num_levels", "codebook_size", "codec"}
    if keys - manifest.keys():
        raise CorpusError(f"{path} lacks {', '.join(sorted(keys - manifest.keys()))}")
    return hashlib.sha256(content).hexdigest(), manifest


def _example(row: Mapping[str, Any], reader: ShardReader, corpus_dir: Path | None) -> CodesExample:
    """Build one song from its row of the index."""
    times = json.loads(row["times"]) if row["times"] else {}
    return CodesExample(
        id=row["id"],
        split=row["split"],
        codes=StoredCodes(
            reader, f"{shard_name(row['shard'])}.parquet", row["row"], 0, row["num_frames"]
        ),
        tags=tuple(row["tags"]),
        description=row["description"],
        lyrics=row["lyrics"],
        instrumental=row["instrumental"],
        language=row["language"],
        duration_s=row["duration_s"],
        truth_path=None if corpus_dir is None else _truth(corpus_dir, row["truth"]),
        sections=tuple(Section(*part) for part in times.get("sections", ())),
        words=tuple(Word(*word) for word in times.get("words", ())),
        phonemes=tuple(Word(*sound) for sound in times.get("phonemes", ())),
        chords=tuple(Word(*chord) for chord in times.get("chords", ())),
        beats_s=tuple(times.get("beats_s", ())),
    )


def _truth(corpus_dir: Path, name: str | None) -> Path | None:
    """Return where the ground truth of a song is, if the corpus has it."""
    path = corpus_dir / "songs" / str(name) / "song.json"
    return path if path.is_file() else None
