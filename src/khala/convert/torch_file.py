"""Files that ``torch.save`` wrote (``.pt``, ``.bin``, ``.ckpt``), without unpickling.

Such a file is a zip archive of one pickle and the tensors' bytes. The pickle is read by
`khala.convert.pickles`; the bytes stay on disk and are mapped into memory: a tensor costs nothing
before it is used.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from khala.convert.pickles import read_pickle
from khala.errors import CheckpointError

__all__ = ["read_state_dict", "read_torch_file"]

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


def read_torch_file(path: Path) -> Any:
    """Return what a file written by ``torch.save`` holds: containers, numbers, texts and tensors.

    Raises:
        CheckpointError: it is no such file, it is damaged, or it holds something else.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            pickled = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
            if len(pickled) != 1:
                raise CheckpointError(f"{path} was not written by torch.save: it has no data.pkl")
            root = pickled[0].removesuffix("data.pkl")
            if entries[pickled[0]].file_size > MAX_PICKLE_BYTES:
                raise CheckpointError(f"{path}: its pickle is over {MAX_PICKLE_BYTES >> 20} MiB")
            data = archive.read(pickled[0])
            order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged, or was written by a torch before 1.6: {error}"
        ) from error
    if order.strip() != b"little":
        raise CheckpointError(f"{path} has bytes in {order.decode(errors='replace')} order")
    tensors = _Tensors(path, {name.removeprefix(root): entry for name, entry in entries.items()})
    return read_pickle(
        data,
        builders=tensors.builders(),
        load_persistent=tensors.storage,
        what=str(path),
    )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors by name of a file that holds a model: alone, or under "state_dict".

    Raises:
        CheckpointError: as `read_torch_file`, or it holds no tensors by name.
    """
    found = read_torch_file(path)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no model but a {type(found).__name__}")
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError(f"{path} holds no tensors by name")
    return tensors


class _Tensors:
    """Makes the tensors of one file, views of its bytes on disk."""

    def __init__(self, path: Path, entries: Mapping[str, zipfile.ZipInfo]) -> None:
        self._path, self._entries = path, entries
        self._storages: dict[str, Tensor] = {}

    def builders(self) -> dict[str, Any]:
        """Return what a pickle of torch.save may call."""
        storages = {f"torch.{name}": kind for name, kind in STORAGES.items()}
        return {
            "collections.OrderedDict": lambda *items: dict(*items),
            "torch.Size": tuple,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            **dict.fromkeys(storages, _not_called),
        }

    def storage(self, key: Any) -> Tensor:
        """Return one storage as a flat tensor, given ("storage", class, name, place, length)."""
        tag, kind, name, _, length = key
        dtype = STORAGES.get(kind.text.removeprefix("torch."))
        if tag != "storage" or dtype is None:
            raise CheckpointError(f"{self._path}: {kind.text} is no storage")
        known = self._storages.get(name)
        if known is not None and known.dtype == dtype:
            return known
        entry = self._entries.get(f"data/{name}")
        if entry is None:
            raise CheckpointError(f"{self._path}: the bytes of storage {name} are missing")
        num_bytes = int(length) * dtype.itemsize
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < num_bytes:
            raise CheckpointError(f"{self._path}: storage {name} is packed or cut short")
        flat = self._mapped(entry, num_bytes).view(dtype)
        self._storages[name] = flat
        return flat

    def _mapped(self, entry: zipfile.ZipInfo, num_bytes: int) -> Tensor:
        """Return the bytes of an entry, mapped; writing to them does not reach the file."""
        if num_bytes == 0:
            return torch.empty(0, dtype=torch.uint8)
        with self._path.open("rb") as file:
            file.seek(entry.header_offset)
            header = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        start = entry.header_offset + LOCAL_HEADER.size + header[-2] + header[-1]
        whole = np.memmap(self._path, np.uint8, mode="c", offset=start, shape=(num_bytes,))
        return torch.from_numpy(whole)

    def tensor(
        self, storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
    ) -> Tensor:
        """Return a view of a storage.

        Raises:
            CheckpointError: it reaches past the storage's end.
        """
        last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
        is_empty = 0 in size
        if min([offset, *size, *stride], default=0) < 0 or (
            not is_empty and last >= storage.numel()
        ):
            raise CheckpointError(f"{self._path}: a tensor reaches past its storage")
        return storage.as_strided(tuple(size), tuple(stride), offset)


def _not_called(*_: Any) -> Any:
    raise CheckpointError("a storage is not called by what torch.save writes")
