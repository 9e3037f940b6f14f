"""Files that ``torch.save`` wrote (``.pt``, ``.bin``, ``.ckpt``), without unpickling.

Such a file is a zip archive of one pickle and the tensors' bytes. The pickle is read by
`khala.convert.pickles`; the bytes stay on disk and are mapped into memory: a tensor costs nothing
before it is used.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from khala.convert.pickles import read_pickle
from khala.errors import CheckpointError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["FileTensor", "find_state_dict", "not_called", "read_state_dict", "read_torch_file"]

T = TypeVar("T")
DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, EOFError, OSError)
"""What reading a damaged archive may raise; names that are no UTF-8 are a ValueError."""

MAX_PICKLE_BYTES = 256 << 20
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FileTensor:
    """Where a tensor's numbers lie in a file: nothing is mapped before it is read."""

    path: Path
    """The file."""

    start: int
    """Byte of the number at offset 0."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    stride: tuple[int, ...]
    """Numbers from one index to the next, per dimension."""

    offset: int = 0
    """Numbers before the first."""

    def read(self, lo: int = 0, hi: int | None = None) -> Tensor:
        """Return rows lo to hi of the first dimension, mapped; writing does not reach the file.

        Only the bytes of those rows are mapped, so they take memory only as long as they are used.
        """
        shape, first = self.shape, self.offset
        if shape:
            hi = shape[0] if hi is None else hi
            shape, first = (hi - lo, *shape[1:]), first + lo * self.stride[0]
        if 0 in shape:
            return torch.empty(shape, dtype=self.dtype)
        span = 1 + sum((count - 1) * step for count, step in zip(shape, self.stride, strict=True))
        size = self.dtype.itemsize
        mapped: npt.NDArray[np.uint8] = np.memmap(
            self.path, np.uint8, mode="c", offset=self.start + first * size, shape=(span * size,)
        )
        if mapped.ctypes.data % size:
            mapped = np.array(mapped)
        return torch.from_numpy(mapped).view(self.dtype).as_strided(shape, self.stride)


def read_torch_file(
    path: Path,
    *,
    offset: int = 0,
    num_bytes: int | None = None,
    lazy: bool = False,
    records: Iterable[str] = (),
) -> Any:
    """Return what a file written by ``torch.save`` holds: containers, numbers, texts and tensors.

    Args:
        path: the file.
        offset: where in it the archive begins, in bytes; it has ``num_bytes``, None: all there are.
        lazy: give a `FileTensor` for each tensor, which maps nothing before it is read.
        records: classes kept as `Record`, see `read_pickle`.

    Raises:
        CheckpointError: it is no such file, it is damaged, or it holds something else.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            length = path.stat().st_size - offset if num_bytes is None else num_bytes
            with zipfile.ZipFile(_Stretch(file, offset, length)) as archive:
                entries, data, order = _contents(path, archive)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} is damaged, or was written by a torch before 1.6: {error}"
        ) from error
    if order.strip() != b"little":
        raise CheckpointError(f"{path} has bytes in {order.decode(errors='replace')} order")
    tensors = _Tensors(path, entries, offset=offset, lazy=lazy)
    return read_pickle(
        data,
        builders=tensors.builders(),
        records=records,
        load_persistent=tensors.storage,
        what=str(path),
    )


def _contents(
    path: Path, archive: zipfile.ZipFile
) -> tuple[dict[str, zipfile.ZipInfo], bytes, bytes]:
    """Return entries by their names below the root, the pickle, and the order of bytes."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickled = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
    if len(pickled) != 1:
        raise CheckpointError(f"{path} was not written by torch.save: it has no data.pkl")
    root = pickled[0].removesuffix("data.pkl")
    if entries[pickled[0]].file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path}: its pickle is over {MAX_PICKLE_BYTES >> 20} MiB")
    data = archive.read(pickled[0])
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
    return {name.removeprefix(root): entry for name, entry in entries.items()}, data, order


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors by name of a file that holds a model: alone, or under "state_dict".

    Raises:
        CheckpointError: as `read_torch_file`, or it holds no tensors by name.
    """
    return _by_name(path, read_torch_file(path), Tensor)


def find_state_dict(path: Path, *, records: Iterable[str] = ()) -> dict[str, FileTensor]:
    """Return where the tensors of such a file lie, as `read_state_dict`, with nothing mapped."""
    return _by_name(path, read_torch_file(path, lazy=True, records=records), FileTensor)


def _by_name(path: Path, found: Any, kind: type[T]) -> dict[str, T]:
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no model but a {type(found).__name__}")
    tensors = {name: value for name, value in found.items() if isinstance(value, kind)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError(f"{path} holds no tensors by name")
    return tensors


class _Stretch(io.RawIOBase):
    """Some bytes of a file, as a file of their own."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._start, self._length = file, start, length
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; return where to."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise OSError("a seek before the start")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        """Fill a buffer; return how many bytes there were."""
        view = memoryview(buffer).cast("B")
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(view), self._length - self._at)))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


@dataclass(frozen=True, slots=True)
class _Storage:
    """Numbers of one kind, one after another, that tensors are views of."""

    start: int
    """Byte in the file."""

    dtype: torch.dtype
    count: int


class _Tensors:
    """Makes the tensors of one archive, views of its bytes on disk."""

    def __init__(
        self, path: Path, entries: Mapping[str, zipfile.ZipInfo], *, offset: int, lazy: bool
    ) -> None:
        self._path, self._entries = path, entries
        self._offset, self._lazy = offset, lazy

    def builders(self) -> dict[str, Any]:
        """Return what a pickle of torch.save may call."""
        return {
            "collections.OrderedDict": lambda *items: dict(*items),
            "collections.defaultdict": lambda *_: {},
            "torch.Size": tuple,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            **dict.fromkeys((f"torch.{name}" for name in STORAGES), not_called),
        }

    def storage(self, key: Any) -> _Storage:
        """Return one storage, given ("storage", class, name, place, length)."""
        tag, kind, name, _, length = key
        dtype = STORAGES.get(kind.text.removeprefix("torch."))
        if tag != "storage" or dtype is None:
            raise CheckpointError(f"{self._path}: {kind.text} is no storage")
        entry = self._entries.get(f"data/{name}")
        if entry is None:
            raise CheckpointError(f"{self._path}: the bytes of storage {name} are missing")
        count = int(length)
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < count * dtype.itemsize:
            raise CheckpointError(f"{self._path}: storage {name} is packed or cut short")
        return _Storage(self._start(entry), dtype, count)

    def _start(self, entry: zipfile.ZipInfo) -> int:
        """Return the byte of the file where an entry's content begins."""
        at = self._offset + entry.header_offset
        with self._path.open("rb") as file:
            file.seek(at)
            header = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        return at + LOCAL_HEADER.size + int(header[-2]) + int(header[-1])

    def tensor(
        self, storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
    ) -> Tensor | FileTensor:
        """Return a view of a storage, or where it is.

        Raises:
            CheckpointError: it reaches past the storage's end.
        """
        last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
        is_empty = 0 in size
        if min([offset, *size, *stride], default=0) < 0 or (not is_empty and last >= storage.count):
            raise CheckpointError(f"{self._path}: a tensor reaches past its storage")
        found = FileTensor(
            path=self._path,
            start=storage.start,
            dtype=storage.dtype,
            shape=tuple(size),
            stride=tuple(stride),
            offset=offset,
        )
        return found if self._lazy else found.read()


def not_called(*_: Any) -> Any:
    """Stand for a class or a value that a pickle may name but never calls."""
    raise CheckpointError("what is only named was called: no program writes that")
