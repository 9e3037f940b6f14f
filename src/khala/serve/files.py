"""Where the files of songs are: a folder, or an object store that many machines share.

A file is written whole or not at all, and its name says whose it is: ``songs/<id>/<name>``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from khala.audio import replacing
from khala.errors import ConfigError
from khala.serve.settings import Settings

__all__ = ["Files", "FolderFiles", "StoreFiles", "open_files"]

_SONG = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?")


class Files(Protocol):
    """Files of songs, by the song's id and a name. Every method may raise OSError."""

    def write(self, song: str, name: str, data: bytes) -> None:
        """Write a file; a reader sees the old one or the new one."""

    def read(self, song: str, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: there is none.
        """

    def names(self, song: str) -> list[str]:
        """Return the names of a song's files."""

    def remove(self, song: str, name: str | None = None) -> None:
        """Remove a file, or all of a song; it is no error if there is none."""

    def songs(self) -> Iterator[str]:
        """Go through the songs that have files."""


def checked(song: str, name: str) -> tuple[str, str]:
    """Return both, if they can be nothing but names.

    Raises:
        ValueError: they cannot.
    """
    if not _SONG.fullmatch(song) or not _NAME.fullmatch(name):
        raise ValueError(f"no name of a file: {song!r}, {name!r}")
    return song, name


class FolderFiles:
    """Files in a folder of this computer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, song: str, name: str, data: bytes) -> None:
        """Write a file, and have it on the disk before this returns."""
        song, name = checked(song, name)
        place = self._folder / song
        place.mkdir(parents=True, exist_ok=True)
        with replacing(place / name) as temporary, temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(place)

    def read(self, song: str, name: str) -> bytes:
        """Return a file's bytes."""
        song, name = checked(song, name)
        return (self._folder / song / name).read_bytes()

    def names(self, song: str) -> list[str]:
        """Return the names of a song's files, without those that are only being written."""
        place = self._folder / checked(song, "a")[0]
        if not place.is_dir():
            return []
        return sorted(path.name for path in place.iterdir() if _NAME.fullmatch(path.name))

    def remove(self, song: str, name: str | None = None) -> None:
        """Remove a file, or all of a song with what was left half written."""
        place = self._folder / checked(song, name or "a")[0]
        if name is not None:
            (place / name).unlink(missing_ok=True)
            return
        if not place.is_dir():
            return
        for path in place.iterdir():
            path.unlink(missing_ok=True)
        place.rmdir()

    def songs(self) -> Iterator[str]:
        """Go through the songs that have files."""
        if self._folder.is_dir():
            yield from (path.name for path in self._folder.iterdir() if _SONG.fullmatch(path.name))

    def check_room(self, floor_bytes: int) -> None:
        """Refuse to begin something when the disk is nearly full.

        Raises:
            OSError: ENOSPC.
        """
        place = self._folder if self._folder.is_dir() else self._folder.parent
        stat = os.statvfs(place)
        if stat.f_bavail * stat.f_frsize < floor_bytes:
            raise OSError(errno.ENOSPC, "the disk is nearly full")

    def songs_before(self, at: float) -> Iterator[str]:
        """Go through the songs whose files were not touched since a time of the clock."""
        for song in self.songs():
            with contextlib.suppress(FileNotFoundError):
                if (self._folder / song).stat().st_mtime < at:
                    yield song

    def sweep(self, *, before: float) -> int:
        """Remove what a killed process left half written before a time; return how many files."""
        num = 0
        for path in self._folder.glob("*/.khala-*.tmp"):
            try:
                if path.stat().st_mtime < before:
                    path.unlink()
                    num += 1
            except FileNotFoundError:
                continue
        return num


class StoreFiles:
    """Files in an object store, through obstore; credentials come from the environment."""

    def __init__(self, url: str) -> None:
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise ConfigError(
                "an object store needs obstore: install it with pip install 'khala[fleet]'"
            ) from error
        self._store: Any = from_url(
            url, client_options={"timeout": timedelta(seconds=60), "allow_http": True}
        )

    def write(self, song: str, name: str, data: bytes) -> None:
        """Write a file; the store shows it when it is whole."""
        import obstore

        obstore.put(self._store, "songs/{}/{}".format(*checked(song, name)), data)

    def read(self, song: str, name: str) -> bytes:
        """Return a file's bytes."""
        import obstore

        return bytes(obstore.get(self._store, "songs/{}/{}".format(*checked(song, name))).bytes())

    def names(self, song: str) -> list[str]:
        """Return the names of a song's files."""
        return sorted(path.rpartition("/")[2] for path in self._paths(checked(song, "a")[0]))

    def remove(self, song: str, name: str | None = None) -> None:
        """Remove a file, or all of a song."""
        import obstore

        song, _ = checked(song, name or "a")
        paths = self._paths(song) if name is None else [f"songs/{song}/{name}"]
        for path in paths:
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError:
                continue

    def songs(self) -> Iterator[str]:
        """Go through the songs that have files."""
        import obstore

        listed = obstore.list_with_delimiter(self._store, "songs/")
        names = (prefix.rstrip("/").rpartition("/")[2] for prefix in listed["common_prefixes"])
        yield from (name for name in names if _SONG.fullmatch(name))

    def _paths(self, song: str) -> list[str]:
        import obstore

        batches = obstore.list(self._store, f"songs/{song}/")
        return [one["path"] for batch in batches for one in batch]


def open_files(settings: Settings) -> FolderFiles | StoreFiles:
    """Return the place for a service's files."""
    if settings.objects is None:
        return FolderFiles(settings.data / "songs")
    return StoreFiles(settings.objects)


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
