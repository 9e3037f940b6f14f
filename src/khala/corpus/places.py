"""Where songs come from and where shards go: a folder, or an object store named by a URL.

``s3://bucket/songs``, ``gs://...``, ``az://...``, ``file:///...`` are opened by obstore (extra
``[train]``), with credentials from the environment as each provider's own tools read them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from khala.errors import ConfigError, CorpusError

__all__ = ["LocalPlace", "Place", "StoredFile", "open_place"]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a place."""

    name: str
    """Relative to the place, with slashes."""

    num_bytes: int
    """Its size."""


class Place(Protocol):
    """Files by name."""

    url: str
    """What `open_place` takes to open it again, in another process too."""

    def files(self) -> Iterator[StoredFile]:
        """Give every file, sorted by name; those of hidden folders are left out."""
        ...

    def has(self, name: str) -> bool:
        """Say whether there is such a file."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file whole.

        Raises:
            CorpusError: it is not there, or cannot be read.
        """
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file as a whole or not at all.

        Raises:
            OSError: a local disk is full or refuses.
            CorpusError: an object store refuses.
        """
        ...

    def holds(self, name: str, sha256: str, num_bytes: int) -> bool:
        """Say whether a file is there as it was written; of a store's object, its size says so."""
        ...

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        """Give a path where a file can be read for the length of a ``with`` block.

        Raises:
            CorpusError: it is not there, or cannot be read.
        """
        ...


def open_place(url: str | Path, *, make: bool = False) -> Place:
    """Open a folder or an object store.

    Args:
        url: a path, or a URL with "://".
        make: make a folder that is not there.

    Raises:
        CorpusError: no such folder, or the store cannot be opened.
        ConfigError: a URL, and obstore is not installed.
    """
    if "://" in str(url):
        return StorePlace(str(url))
    folder = Path(url)
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        raise CorpusError(f"there is no folder {folder}")
    return LocalPlace(folder)


class LocalPlace:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self.url = str(folder.absolute())
        self._folder = folder.absolute()

    def files(self) -> Iterator[StoredFile]:
        """Give every file under the folder."""
        paths = [path for path in self._folder.rglob("*") if path.is_file()]
        named = sorted((path.relative_to(self._folder).as_posix(), path) for path in paths)
        for name, path in named:
            if not _is_hidden(name):
                yield StoredFile(name, path.stat().st_size)

    def has(self, name: str) -> bool:
        """Say whether there is such a file."""
        return (self._folder / name).is_file()

    def read(self, name: str) -> bytes:
        """Return a file whole."""
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise CorpusError(f"cannot read {self._folder / name}: {error.strerror}") from error

    def write(self, name: str, content: bytes) -> None:
        """Write beside the file, flush to the disk, and rename."""
        path = self._folder / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            error.filename = str(path)
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def holds(self, name: str, sha256: str, num_bytes: int) -> bool:
        """Compare size and sha256."""
        path = self._folder / name
        if not path.is_file() or path.stat().st_size != num_bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Give the path of a file."""
        if not self.has(name):
            raise CorpusError(f"there is no file {self._folder / name}")
        yield self._folder / name


class StorePlace:
    """A bucket, or a part of one."""

    def __init__(self, url: str) -> None:
        try:
            from obstore import exceptions, store
        except ImportError as error:
            raise ConfigError(f"{url} needs obstore: pip install 'khala[train]'") from error
        self.url = url
        self._failures: tuple[type[Exception], ...] = (exceptions.BaseError, OSError)
        try:
            self._store: Any = store.from_url(url)
        except (*self._failures, ValueError) as error:
            raise CorpusError(f"cannot open {url}: {_first_line(error)}") from error

    def files(self) -> Iterator[StoredFile]:
        """Give every object under the URL."""
        try:
            found = [one for chunk in self._store.list() for one in chunk]
        except self._failures as error:
            raise CorpusError(f"cannot list {self.url}: {_first_line(error)}") from error
        for one in sorted(found, key=lambda one: str(one["path"])):
            if not _is_hidden(str(one["path"])):
                yield StoredFile(str(one["path"]), int(one["size"]))

    def has(self, name: str) -> bool:
        """Ask for the object's head."""
        try:
            self._store.head(name)
        except FileNotFoundError:
            return False
        except self._failures as error:
            raise CorpusError(f"cannot read {self.url}/{name}: {_first_line(error)}") from error
        return True

    def read(self, name: str) -> bytes:
        """Fetch an object."""
        try:
            return bytes(self._store.get(name).bytes())
        except self._failures as error:
            raise CorpusError(f"cannot read {self.url}/{name}: {_first_line(error)}") from error

    def write(self, name: str, content: bytes) -> None:
        """Put an object: stores show it whole or not at all."""
        try:
            self._store.put(name, content)
        except self._failures as error:
            raise CorpusError(f"cannot write {self.url}/{name}: {_first_line(error)}") from error

    def holds(self, name: str, sha256: str, num_bytes: int) -> bool:
        """Compare the size; the content is verified when it is fetched to be used."""
        del sha256
        try:
            return int(self._store.head(name)["size"]) == num_bytes
        except FileNotFoundError:
            return False
        except self._failures as error:
            raise CorpusError(f"cannot read {self.url}/{name}: {_first_line(error)}") from error

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Fetch an object, part by part, into a file that is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="khala-fetched-") as folder:
            path = Path(folder) / Path(name).name
            try:
                with path.open("wb") as file:
                    for part in self._store.get(name).stream():
                        file.write(part)
            except self._failures as error:
                raise CorpusError(f"cannot read {self.url}/{name}: {_first_line(error)}") from error
            yield path


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
