"""What there is to prepare: a demo corpus, a folder of audio, or a manifest that lists songs.

Beside ``song.flac`` of a folder may stand

    song.json       {"tags": [...] or "a, b", "description": "...", "lyrics": "...",
                     "instrumental": false, "language": "en", "split": "train"}; all may be left out
    song.txt        the lyrics, if there are none in the JSON
    song.lrc        the lyrics with times, if there are none in either
    song.tags.txt   the tags, separated by commas or lines, if there are none in the JSON

A manifest is a ``.jsonl`` or ``.csv`` of the same keys, and "audio": a path beside the manifest;
"lyrics_file" may name a text instead of "lyrics". Nothing is opened here but the manifest itself.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from khala.corpus.decode import AUDIO_ENDINGS
from khala.corpus.places import Place, StoredFile, open_place
from khala.errors import CorpusError

__all__ = ["KEYS", "Item", "Source", "find_items", "item_of"]

KEYS = frozenset({"tags", "description", "lyrics", "instrumental", "language", "split"})
"""What may be said of a song."""

MANIFEST_KEYS = KEYS | {"audio", "lyrics_file", "id"}
SIDECARS = {".json": "json", ".tags.txt": "tags", ".txt": "lyrics", ".lrc": "lrc"}
"""Endings beside an audio file; the longer one of two is meant."""

MANIFEST_ENDINGS = (".jsonl", ".csv")
DEMO_HEAD = "corpus.json"
DEMO_TRUTH = "song.json"
DEMO_STEMS = ("mix.flac", "mix.wav")
MAX_MANIFEST_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One song to be prepared: where its files are, and what a manifest says of it."""

    id: str
    """Unique in its source: the audio file's name, or what the manifest calls it."""

    audio: str
    """Name of the audio file in its place."""

    sidecars: Mapping[str, str] = field(default_factory=dict)
    """Names of files beside it by kind: "json", "lyrics", "lrc", "tags", or a demo song's "truth".
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest says of it."""

    stamp: str = ""
    """Sizes of its files: a source that changed is another source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Every song of a folder, a demo corpus or a manifest."""

    place: Place
    """Where the files are."""

    items: tuple[Item, ...]
    """In the order of their ids, or of the manifest."""

    unused: tuple[str, ...] = ()
    """Texts that belong to no song."""

    def digest(self) -> str:
        """Return a sha256 of what is to be prepared."""
        told = hashlib.sha256()
        for item in self.items:
            row = [item.id, item.audio, item.stamp, dict(item.given)]
            told.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        return told.hexdigest()


def find_items(url: str | Path) -> Source:
    """List the songs of a folder or manifest, local or in an object store.

    Raises:
        CorpusError: nothing is there, or the manifest is damaged or says what nobody knows.
    """
    text = str(url)
    if text.lower().endswith(MANIFEST_ENDINGS):
        parent, _, name = text.rpartition("/")
        return _of_manifest(open_place(parent or ("/" if text.startswith("/") else ".")), name)
    place = open_place(url)
    files = {one.name: one for one in place.files()}
    if DEMO_HEAD in files:
        return _of_demo(place, files)
    return _of_folder(place, files)


def item_of(path: Path) -> Item:
    """Return one local audio file, with the texts beside it."""
    stem = path.name[: -len(path.suffix)]
    sidecars = {
        kind: f"{stem}{ending}"
        for ending, kind in SIDECARS.items()
        if path.with_name(f"{stem}{ending}").is_file()
    }
    return Item(id=path.name, audio=path.name, sidecars=sidecars)


def _of_folder(place: Place, files: Mapping[str, StoredFile]) -> Source:
    """Take every audio file, each with the texts beside it."""
    songs = [name for name in files if PurePosixPath(name).suffix.lower() in AUDIO_ENDINGS]
    if not songs:
        known = ", ".join(sorted(AUDIO_ENDINGS))
        raise CorpusError(f"{place.url} holds no audio file ({known})")
    used: set[str] = set()
    items = []
    for name in songs:
        stem = name[: -len(PurePosixPath(name).suffix)]
        sidecars = {
            kind: f"{stem}{ending}"
            for ending, kind in SIDECARS.items()
            if f"{stem}{ending}" in files
        }
        used.update(sidecars.values())
        stamp = _stamp(files, [name, *sidecars.values()])
        items.append(Item(id=name, audio=name, sidecars=sidecars, stamp=stamp))
    unused = [name for name in files if _is_text(name) and name not in used]
    return Source(place=place, items=tuple(items), unused=tuple(unused))


def _of_demo(place: Place, files: Mapping[str, StoredFile]) -> Source:
    """Take every finished song of a demo corpus, with its ground truth."""
    items = []
    for name in files:
        path = PurePosixPath(name)
        if path.name != DEMO_TRUTH or path.parts[0] != "songs" or len(path.parts) != 3:
            continue
        mixes = [f"{path.parent}/{stem}" for stem in DEMO_STEMS if f"{path.parent}/{stem}" in files]
        if not mixes:
            raise CorpusError(f"{place.url}/{path.parent} has a {DEMO_TRUTH} but no mix")
        stamp = _stamp(files, [name, mixes[0]])
        song_id = path.parts[1]
        items.append(Item(id=song_id, audio=mixes[0], sidecars={"truth": name}, stamp=stamp))
    if not items:
        raise CorpusError(f"{place.url} holds no finished song")
    return Source(place=place, items=tuple(items))


def _of_manifest(place: Place, name: str) -> Source:
    """Take the songs that a manifest lists, in its order."""
    content = place.read(name)
    if len(content) > MAX_MANIFEST_BYTES:
        raise CorpusError(f"{name} is over {MAX_MANIFEST_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{name} is not UTF-8: byte {error.start}") from error
    rows = _json_lines(text, name) if name.lower().endswith(".jsonl") else _csv_rows(text, name)
    items: dict[str, Item] = {}
    for where, row in rows:
        item = _listed(where, row)
        if item.id in items:
            raise CorpusError(f"{where}: there are two songs {item.id!r}")
        items[item.id] = item
    if not items:
        raise CorpusError(f"{name} lists no song")
    return Source(place=place, items=tuple(items.values()))


def _json_lines(text: str, name: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Give each line's object, and where it stands."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{where} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{where} must hold a JSON object")
        yield where, row


def _csv_rows(text: str, name: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Give each row by its header's names; empty cells are left out."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        where = f"{name}, line {reader.line_num}"
        if None in row:
            raise CorpusError(f"{where} has more cells than the header has names")
        cells = {str(key): value for key, value in row.items() if value}
        if str(cells.get("instrumental", "")).lower() in ("true", "false", "yes", "no", "1", "0"):
            cells["instrumental"] = cells["instrumental"].lower() in ("true", "yes", "1")
        yield where, cells


def _listed(where: str, row: dict[str, Any]) -> Item:
    """Return the item of one row of a manifest."""
    for key in row:
        if key not in MANIFEST_KEYS:
            near = difflib.get_close_matches(key, MANIFEST_KEYS, n=1, cutoff=0.0)[0]
            allowed = ", ".join(sorted(MANIFEST_KEYS))
            raise CorpusError(f"{where}: no key {key!r}; nearest: {near} (there are {allowed})")
    audio = row.get("audio")
    if not isinstance(audio, str) or not audio:
        raise CorpusError(f'{where} names no "audio"')
    texts = row.get("lyrics_file")
    for inside in (audio, texts):
        if inside is not None and not _is_inside(inside):
            raise CorpusError(f"{where}: {inside!r} must be a path beside the manifest or below it")
    given = {key: value for key, value in row.items() if key in KEYS}
    sidecars = {"lyrics": texts} if isinstance(texts, str) else {}
    return Item(id=str(row.get("id", audio)), audio=audio, sidecars=sidecars, given=given)


def _is_inside(name: object) -> bool:
    """Say whether a name stays below where it starts."""
    if not isinstance(name, str) or "\\" in name or "://" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _is_text(name: str) -> bool:
    return name.lower().endswith(tuple(SIDECARS))


def _stamp(files: Mapping[str, StoredFile], names: Iterable[str]) -> str:
    return " ".join(str(files[name].num_bytes) for name in names)
