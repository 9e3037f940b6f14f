"""safetensors files, described without being mapped, and written one tensor after another.

8 bytes    length of the header, little endian
header     JSON: {name: {"dtype", "shape", "data_offsets": [begin, end]}}
numbers    of every tensor, in the header's order
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from khala.convert.stored import PlainTensor
from khala.convert.torch_file import FileTensor
from khala.errors import CheckpointError

__all__ = ["BLOCK_BYTES", "find_tensors", "num_bytes", "write_tensors"]

BLOCK_BYTES = 8 << 20
"""Numbers that are read, cast and written at once."""

MAX_HEADER_BYTES = 100 << 20
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}

Progress = Callable[[int, int], None]
"""Hears bytes done and bytes in all."""


def find_tensors(path: Path) -> dict[str, FileTensor]:
    """Return where the tensors of a file lie.

    Raises:
        CheckpointError: it is missing, cut short, or no such file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(f"{path} is no safetensors file, or a damaged one")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: _found(path, 8 + length, size, name, one) for name, one in header.items()}
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has a damaged header: {error}") from error


def _found(path: Path, start: int, size: int, name: str, entry: dict[str, list[int]]) -> FileTensor:
    dtype = DTYPES.get(str(entry["dtype"]))
    shape = tuple(int(count) for count in entry["shape"])
    begin, end = entry["data_offsets"]
    if dtype is None or min(shape, default=0) < 0:
        raise CheckpointError(f"{path}: tensor {name} is {entry['dtype']} {shape}: not known")
    if begin < 0 or end - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{path}: tensor {name} has bytes that do not fit its shape {shape}")
    if start + end > size:
        raise CheckpointError(
            f"{path} has {size} bytes and needs {start + end} for tensor {name}: it was not "
            "downloaded to its end"
        )
    stride = tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))
    return FileTensor(path=path, start=start + begin, dtype=dtype, shape=shape, stride=stride)


def num_bytes(tensors: Sequence[PlainTensor], dtype: torch.dtype | None) -> int:
    """Return how many bytes of numbers a file of these tensors has."""
    return sum(math.prod(one.shape) * (dtype or one.dtype).itemsize for one in tensors)


def write_tensors(
    path: Path,
    tensors: Sequence[PlainTensor],
    *,
    dtype: torch.dtype | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Write a file, some rows of one tensor at a time, and see it onto the disk.

    Args:
        path: the new file.
        tensors: what goes into it.
        dtype: kind of its numbers; None: each tensor's own.
        on_progress: hears bytes done, and bytes in all.

    Raises:
        CheckpointError: a number is not finite, or too large for ``dtype``.
        OSError: the disk is full.
    """
    header, at = {}, 0
    for one in tensors:
        kind = dtype or one.dtype
        end = at + math.prod(one.shape) * kind.itemsize
        header[one.name] = {"dtype": CODES[kind], "shape": one.shape, "data_offsets": (at, end)}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    done, total = 0, at
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for one in tensors:
            kind = dtype or one.dtype
            num_rows = one.shape[0]
            row_bytes = max(1, math.prod(one.shape[1:]) * max(kind.itemsize, one.dtype.itemsize))
            step = max(1, BLOCK_BYTES // row_bytes)
            for lo in range(0, num_rows, step):
                rows = one.read(lo, min(lo + step, num_rows)).to(kind).contiguous()
                if not bool(torch.isfinite(rows).all()):
                    raise CheckpointError(
                        f"tensor {one.name} (from {', '.join(one.sources)}) has numbers that are "
                        f"not finite in {str(kind).removeprefix('torch.')}"
                    )
                file.write(rows.view(torch.uint8).numpy().data)
                done += rows.nbytes
                if on_progress is not None:
                    on_progress(done, total)
        file.flush()
        os.fsync(file.fileno())
