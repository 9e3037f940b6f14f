"""Folders that ``torch.distributed.checkpoint`` wrote: Megatron's ``torch_dist`` checkpoints.

    folder/
    |-- .metadata        a pickle: which tensors there are, their chunks and where those are
    `-- __0_0.distcp     chunks one after another, each an archive of torch.save

Nothing is unpickled: the metadata is read by `khala.convert.pickles`, in which a class of another
program is a record of plain values. A tensor is read from its chunks when it is asked for, and only
the rows that are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from khala.convert.pickles import STANDARD, Name, Record, read_pickle
from khala.convert.torch_file import (
    MAX_PICKLE_BYTES,
    STORAGES,
    FileTensor,
    not_called,
    read_torch_file,
)
from khala.errors import CheckpointError

__all__ = ["DistributedCheckpoint", "ShardedTensor", "read_distributed", "why_skipped"]

DTYPES = {str(dtype): dtype for dtype in STORAGES.values()}
RECORDS = ("torch.distributed.", "megatron.", *STANDARD)
SKIPPED = (
    ("optim", "state of the optimiser"),
    ("_extra_state", "state of the training library's layers, no weights"),
    ("rng_state", "state of random numbers"),
    ("/rng", "state of random numbers"),
    ("inv_freq", "computed from rope_base"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A block of a tensor, as one shard file holds it."""

    offsets: tuple[int, ...]
    """Index of its first number in the whole tensor."""

    sizes: tuple[int, ...]

    stored: FileTensor
    """Its numbers; in the shape ``sizes``, or without leading ones."""

    def rows(self, lo: int, hi: int) -> Tensor:
        """Return rows lo to hi of the chunk."""
        if self.stored.shape == self.sizes:
            return self.stored.read(lo, hi)
        return self.stored.read().reshape(self.sizes)[lo:hi]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardedTensor:
    """A tensor whose chunks lie in one or several files."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[Chunk, ...]

    def read(self, lo: int = 0, hi: int | None = None) -> Tensor:
        """Return rows lo to hi of the first dimension.

        Mapped where one chunk holds them all, else put together in memory.
        """
        if not self.shape:
            return self.chunks[0].stored.read()
        hi = self.shape[0] if hi is None else hi
        rows: Tensor | None = None
        for chunk in self.chunks:
            start, count = chunk.offsets[0], chunk.sizes[0]
            first, last = max(lo, start), min(hi, start + count)
            if first >= last:
                continue
            part = chunk.rows(first - start, last - start)
            if part.shape == (hi - lo, *self.shape[1:]):
                return part
            if rows is None:
                rows = torch.empty((hi - lo, *self.shape[1:]), dtype=self.dtype)
            others = zip(chunk.offsets[1:], chunk.sizes[1:], strict=True)
            rows[(slice(first - lo, last - lo), *(slice(at, at + n) for at, n in others))] = part
        if rows is None:
            return torch.empty((hi - lo, *self.shape[1:]), dtype=self.dtype)
        return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class DistributedCheckpoint:
    """What such a folder holds."""

    tensors: dict[str, ShardedTensor]
    """Weights by name."""

    skipped: dict[str, str] = field(default_factory=dict)
    """Entries that are no weights, and what they are."""

    files: tuple[str, ...] = ()
    """Names of the files that hold the weights."""


def why_skipped(name: str) -> str | None:
    """Return what an entry of training is, or None if its name is that of a weight."""
    return next((why for part, why in SKIPPED if part in name), None)


def read_distributed(folder: Path) -> DistributedCheckpoint:
    """Return the weights of a checkpoint folder; nothing of them is read yet.

    Raises:
        CheckpointError: no such checkpoint, a file is missing or cut short, or it holds something
            that is no plain value.
    """
    folder = Path(folder)
    metadata = _metadata(folder / ".metadata")
    places = _places(folder, metadata.get("storage_data"))
    described = metadata.get("state_dict_metadata")
    if not isinstance(described, dict):
        raise CheckpointError(f"{folder / '.metadata'} describes no tensors")
    tensors: dict[str, ShardedTensor] = {}
    skipped: dict[str, str] = {}
    files = set()
    for name, entry in described.items():
        if not isinstance(name, str) or not isinstance(entry, Record):
            raise CheckpointError(f"{folder / '.metadata'} is damaged: entry {name!r}")
        why = why_skipped(name)
        if why is None and entry.name.endswith(".BytesStorageMetadata"):
            why = "bytes, no tensor"
        if why is not None:
            skipped[name] = why
            continue
        where = f"{folder}: tensor {name}"
        tensors[name] = _tensor(where, entry.state, places.get(name, {}))
        files |= {chunk.stored.path.name for chunk in tensors[name].chunks}
    return DistributedCheckpoint(tensors=tensors, skipped=skipped, files=tuple(sorted(files)))


def _metadata(path: Path) -> dict[str, Any]:
    """Return the attributes of the metadata object."""
    try:
        if path.stat().st_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"{path} is over {MAX_PICKLE_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    builders: dict[str, Any] = {
        "collections.OrderedDict": lambda *items: dict(*items),
        "torch.Size": tuple,
        "torch.serialization._get_layout": str,
        "pathlib.PosixPath": lambda *parts: "/".join(parts),
        "pathlib._local.PosixPath": lambda *parts: "/".join(parts),
        **dict.fromkeys(DTYPES, not_called),
    }
    found = read_pickle(data, builders=builders, records=RECORDS, what=str(path))
    if not isinstance(found, Record) or not isinstance(found.state, dict):
        raise CheckpointError(f"{path} is no metadata of torch.distributed.checkpoint")
    return found.state


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the archive of one chunk lies."""

    path: Path
    offset: int
    length: int


def _places(folder: Path, storage: Any) -> dict[str, dict[tuple[int, ...], _Place]]:
    """Return the place of every chunk, by the tensor's name and the chunk's offsets.

    Raises:
        CheckpointError: a place outside the folder.
    """
    if not isinstance(storage, dict):
        raise CheckpointError(f"{folder / '.metadata'} says of no tensor where it is")
    places: dict[str, dict[tuple[int, ...], _Place]] = {}
    try:
        for index, info in storage.items():
            if info.state.get("transform_descriptors"):
                raise CheckpointError(f"{folder}: {index.state['fqn']} is compressed")
            file = str(info.state["relative_path"])
            if file in ("", ".", "..") or "/" in file or "\\" in file or "\0" in file:
                raise CheckpointError(f"{folder}: shard {file!r} is no file of this folder")
            offsets = tuple(index.state.get("offset") or ())
            place = _Place(folder / file, int(info.state["offset"]), int(info.state["length"]))
            places.setdefault(index.state["fqn"], {})[offsets] = place
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / '.metadata'} is damaged: {error}") from error
    return places


def _tensor(
    where: str, state: Mapping[str, Any], places: Mapping[tuple[int, ...], _Place]
) -> ShardedTensor:
    """Return one tensor, its chunks checked against what is described.

    Raises:
        CheckpointError: a chunk is missing, cut short, of another kind, or they do not fill it.
    """
    try:
        named = state["properties"].state
        kind = named[0] if isinstance(named, tuple) else named["dtype"]
        shape = tuple(state["size"])
        dtype = DTYPES.get(kind.text) if isinstance(kind, Name) else None
        boxes = {tuple(c.state["offsets"]): tuple(c.state["sizes"]) for c in state["chunks"]}
        numbers = [number for box in (*boxes.items(), (shape,)) for side in box for number in side]
        if not all(type(number) is int for number in numbers):
            raise TypeError("a size that is no integer")
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{where} is described in a way that is not known") from error
    if dtype is None:
        raise CheckpointError(f"{where} has numbers of an unknown kind: {kind}")
    _check_boxes(where, shape, boxes)
    chunks = []
    for offsets, sizes in boxes.items():
        place = places.get(offsets)
        if place is None:
            raise CheckpointError(f"{where}: the chunk at {offsets} is in no file")
        chunks.append(Chunk(offsets=offsets, sizes=sizes, stored=_archived(where, place)))
        found = chunks[-1].stored
        ones = (1,) * (len(sizes) - len(found.shape))
        if found.dtype != dtype or ones + found.shape != sizes:
            raise CheckpointError(
                f"{where}: a chunk of {found.dtype} {found.shape} where the metadata has "
                f"{dtype} {sizes}"
            )
    return ShardedTensor(shape=shape, dtype=dtype, chunks=tuple(chunks))


def _check_boxes(
    where: str, shape: tuple[int, ...], boxes: Mapping[tuple[int, ...], tuple[int, ...]]
) -> None:
    """Raise CheckpointError unless the chunks fill the tensor, none over another."""
    inside = all(
        len(offsets) == len(sizes) == len(shape)
        and all(
            at >= 0 and n >= 0 and at + n <= whole
            for at, n, whole in zip(offsets, sizes, shape, strict=True)
        )
        for offsets, sizes in boxes.items()
    )
    filled = sum(math.prod(sizes) for sizes in boxes.values())
    if not inside or filled != math.prod(shape) or _overlap(boxes):
        raise CheckpointError(f"{where}: its {len(boxes)} chunks do not make up {shape}")


def _overlap(boxes: Mapping[tuple[int, ...], tuple[int, ...]]) -> bool:
    items = list(boxes.items())
    return any(
        all(a < b + n and b < a + m for a, m, b, n in zip(first, wide, second, other, strict=True))
        for number, (first, wide) in enumerate(items)
        for second, other in items[:number]
    )


def _archived(where: str, place: _Place) -> FileTensor:
    """Return the tensor that a chunk's archive holds.

    Raises:
        CheckpointError: the file is missing or ends too soon, or it is no archive of a tensor.
    """
    if not place.path.is_file():
        raise CheckpointError(f"{where}: shard {place.path} is missing")
    size = place.path.stat().st_size
    if place.offset < 0 or place.length < 1 or size < place.offset + place.length:
        raise CheckpointError(
            f"{where}: shard {place.path} has {size} bytes and needs "
            f"{place.offset + place.length}: it was not downloaded to its end"
        )
    found = read_torch_file(place.path, offset=place.offset, num_bytes=place.length, lazy=True)
    if not isinstance(found, FileTensor):
        raise CheckpointError(f"{where}: {place.path} holds no tensor there")
    return found
