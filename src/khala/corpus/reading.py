"""Codes from shards, song by song, with the last used ones kept in memory.

Shape letters: Q levels, T frames.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from khala.checkpoint import sha256_file
from khala.corpus.places import LocalPlace, Place, open_place
from khala.corpus.shards import codes_from_bytes, parquet
from khala.errors import CorpusError

__all__ = ["HeldCodes", "ShardReader", "StoredCodes"]

MAX_KEPT_BYTES = 2 << 30
"""Codes kept in memory: 200 hours of 64 levels."""

MAX_OPEN_SHARDS = 64


@dataclass(frozen=True, slots=True, eq=False)
class HeldCodes:
    """Codes in memory."""

    held_QT: NDArray[np.integer[Any]]

    @property
    def num_frames(self) -> int:
        """T."""
        return int(self.held_QT.shape[1])

    def array(self) -> NDArray[np.uint16]:
        """Return codes_QT."""
        return self.held_QT  # type: ignore[return-value]

    def cut(self, start: int, stop: int) -> HeldCodes:
        """Return the codes of some frames."""
        return HeldCodes(self.held_QT[:, start:stop])


@dataclass(frozen=True, slots=True, eq=False)
class StoredCodes:
    """Codes of some frames of a song in a shard; nothing is read before they are asked for."""

    reader: ShardReader
    file: str
    row: int
    start: int
    stop: int

    @property
    def num_frames(self) -> int:
        """T."""
        return self.stop - self.start

    def array(self) -> NDArray[np.uint16]:
        """Return codes_QT, read-only."""
        return self.reader.codes(self.file, self.row)[:, self.start : self.stop]

    def cut(self, start: int, stop: int) -> StoredCodes:
        """Return the codes of some of these frames."""
        length = self.num_frames
        first, last = (min(max(0, at), length) for at in (start, stop))
        return StoredCodes(
            self.reader, self.file, self.row, self.start + first, self.start + max(first, last)
        )


class ShardReader:
    """Reads songs' codes from the shards of a place; safe to use from several threads."""

    def __init__(
        self,
        place: Place,
        files: Mapping[str, Mapping[str, Any]],
        *,
        num_levels: int,
        max_kept_bytes: int = MAX_KEPT_BYTES,
        cache: Path | None = None,
    ) -> None:
        """Read from ``place`` the ``files`` of its manifest.

        Args:
            place: where the shards are.
            files: size and sha256 by name.
            num_levels: Q.
            max_kept_bytes: codes kept in memory.
            cache: where shards of an object store are kept; the user's cache if not given.
        """
        self._place, self._files, self._num_levels = place, files, num_levels
        self._max_kept_bytes = max_kept_bytes
        self._cache = Path.home() / ".cache" / "khala" / "shards" if cache is None else cache
        self._kept: OrderedDict[tuple[str, int], NDArray[np.uint16]] = OrderedDict()
        self._kept_bytes = 0
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def codes(self, file: str, row: int) -> NDArray[np.uint16]:
        """Return codes_QT of one song.

        Raises:
            CorpusError: the shard is not there, or not what the manifest says.
        """
        with self._lock:
            known = self._kept.get((file, row))
            if known is not None:
                self._kept.move_to_end((file, row))
                return known
            codes_QT = self._read(file, row)
            self._kept[file, row] = codes_QT
            self._kept_bytes += codes_QT.nbytes
            while self._kept_bytes > self._max_kept_bytes and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
            return codes_QT

    def _read(self, file: str, row: int) -> NDArray[np.uint16]:
        arrow, _ = parquet()
        try:
            table = self._shard(file).read_row_group(row, columns=["codes", "num_frames"])
            content, num_frames = table["codes"][0].as_py(), table["num_frames"][0].as_py()
        except (arrow.ArrowException, OSError, IndexError, KeyError, ValueError) as error:
            raise CorpusError(f"cannot read {self._place.url}/{file}: {error}") from error
        return codes_from_bytes(content, self._num_levels, num_frames)

    def _shard(self, file: str) -> Any:
        """Return an open shard; those not used for longest are closed."""
        known = self._open.pop(file, None)
        if known is None:
            _, files = parquet()
            known = files.ParquetFile(self._path(file))
        self._open[file] = known
        while len(self._open) > MAX_OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        return known

    def _path(self, file: str) -> Path:
        """Return where a shard lies on this computer, fetched and verified if it was not here."""
        if isinstance(self._place, LocalPlace):
            with self._place.fetched(file) as path:
                return path
        wanted = str(self._files[file]["sha256"])
        path = self._cache / wanted[:2] / f"{wanted}.parquet"
        if not path.is_file() or sha256_file(path) != wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._place.fetched(file) as fetched:
                if sha256_file(fetched) != wanted:
                    raise CorpusError(f"a shard is damaged: {self._place.url}/{file}")
                open_place(path.parent).write(path.name, fetched.read_bytes())
        return path
