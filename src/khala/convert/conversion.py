"""Published weights -> a model folder: part by part, each as a whole or not at all.

    folder/
    |-- codec/, backbone/, superres/    model folders; each also has source.json, which says what
    |                                   files it was made from
    |-- tokenizer.json                  if the source has it
    |-- conversion.json                 every tensor that was used, every one skipped, and why
    `-- manifest.json

A part that is there already, made from the same files and undamaged, is not made again: what was
stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from khala import checkpoint
from khala.convert.published import PARTS, Part, Source
from khala.convert.safetensors_file import num_bytes, write_tensors
from khala.errors import CapacityError, CheckpointError
from khala.processes import alone_in

__all__ = ["DTYPES", "convert", "describe", "missing_in", "write_file"]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SPARE_BYTES = 64 << 20
"""Free space beyond the weights, for the small files."""

GLANCE_BYTES = 1 << 20

Progress = Callable[[str, int, int], None]
"""Hears a part's name, MB written and MB in all."""


def convert(
    source: Source,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    on_progress: Progress | None = None,
) -> dict[str, str]:
    """Write what a source holds as a model folder; return "written" or "kept" for each part.

    Tensors are read and written in blocks of some MB, so memory does not grow with the models.

    Args:
        source: what `khala.convert.published.look` found.
        folder: where the model goes. Parts of the same conversion there are kept.
        dtype: kind of numbers of backbone and super-resolution; None: as they are stored.
        on_progress: hears what is done.

    Raises:
        CapacityError: the disk has too little room, said before anything is written.
        CheckpointError: something else is there, or a number is not finite.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: give a folder")
    kept = {
        kind: _is_done(folder / kind, part, _kind_of_numbers(part, dtype))
        for kind, part in source.parts.items()
    }
    _check_tokenizer_place(source, folder)
    todo = [part for kind, part in source.parts.items() if not kept[kind]]
    _check_space(folder, sum(_size(part, dtype) for part in todo) + SPARE_BYTES)
    folder.mkdir(parents=True, exist_ok=True)

    def refuse() -> None:
        raise CheckpointError(f"another conversion is writing to {folder}")

    with alone_in(folder, refuse):
        _sweep(folder)
        for part in todo:
            _write_part(folder / part.kind, part, _kind_of_numbers(part, dtype), on_progress)
        _complete(source, folder, describe(source, dtype))
    return {kind: "kept" if done else "written" for kind, done in kept.items()}


def describe(source: Source, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Return what becomes of a source as plain JSON types: the conversion's report."""
    return {
        "source": str(source.folder),
        "download": source.download,
        "parts": {kind: _describe(part, dtype) for kind, part in source.parts.items()},
        "tokenizer": None if source.tokenizer is None else str(source.tokenizer),
        "missing": list(source.missing),
    }


def _describe(part: Part, dtype: torch.dtype | None) -> dict[str, Any]:
    stored: dict[str, int] = {}
    for one in part.tensors:
        name = str(one.dtype).removeprefix("torch.")
        stored[name] = stored.get(name, 0) + math.prod(one.shape)
    return {
        "source": str(part.source),
        "files": [str(path) for path in part.files],
        "config": checkpoint.config_to_dict(part.config),
        "num_parameters": sum(math.prod(one.shape) for one in part.tensors),
        "numbers_stored_as": stored,
        "bytes": _size(part, dtype),
        "notes": list(part.notes),
        "tensors": {
            one.name: {
                "shape": list(one.shape),
                "dtype": str(one.dtype).removeprefix("torch."),
                "from": list(one.sources),
            }
            for one in part.tensors
        },
        "skipped": part.skipped,
    }


def _kind_of_numbers(part: Part, dtype: torch.dtype | None) -> torch.dtype | None:
    """Return what a part is stored in; the codec's codes depend on its exact numbers."""
    return torch.float32 if part.kind == "codec" else dtype


def _size(part: Part, dtype: torch.dtype | None) -> int:
    return num_bytes(part.tensors, _kind_of_numbers(part, dtype))


def _fingerprint(part: Part, dtype: torch.dtype | None) -> dict[str, Any]:
    """Return what tells this conversion of a part from another.

    Of each file, its size and the sha256 of its first and last MiB: whole gigabytes would take
    longer to hash than to convert.
    """
    files = {}
    for path in part.files:
        size = path.stat().st_size
        seen = hashlib.sha256()
        with path.open("rb") as file:
            seen.update(file.read(GLANCE_BYTES))
            file.seek(max(0, size - GLANCE_BYTES))
            seen.update(file.read(GLANCE_BYTES))
        files[path.name] = {"bytes": size, "ends_sha256": seen.hexdigest()}
    numbers = "as stored" if dtype is None else str(dtype).removeprefix("torch.")
    return {"files": files, "numbers": numbers}


def _is_done(folder: Path, part: Part, dtype: torch.dtype | None) -> bool:
    """Tell whether a part is there, whole and of this source.

    Raises:
        CheckpointError: something else is there.
    """
    if not folder.exists():
        return False
    try:
        found = json.loads(checkpoint.verify(folder, "source.json").read_bytes())
        same = found == _fingerprint(part, dtype)
        same = same and checkpoint.load_config(folder, part.kind, type(part.config)) == part.config
        if same:
            checkpoint.verify(folder, "model.safetensors")
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is there and is not a whole conversion ({error}): remove it, or give "
            "another folder"
        ) from error
    if not same:
        raise CheckpointError(
            f"{folder} is there and was made from other files or with another --dtype: remove it, "
            "or give another folder"
        )
    return True


def _check_tokenizer_place(source: Source, folder: Path) -> None:
    """Raise CheckpointError if another tokenizer stands where this one goes."""
    there = folder / "tokenizer.json"
    if source.tokenizer is None or not there.exists():
        return
    if there.read_bytes() != source.tokenizer.read_bytes():
        raise CheckpointError(f"{there} is there and differs from {source.tokenizer}")


def _check_space(folder: Path, needed: int) -> None:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise CapacityError(
            f"converting into {folder} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
        )


def _sweep(folder: Path) -> None:
    """Remove what a killed conversion left under temporary names."""
    for name in (*PARTS, "file"):
        for left in folder.glob(f".{name}.*"):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()


def _write_part(
    folder: Path, part: Part, dtype: torch.dtype | None, on_progress: Progress | None
) -> None:
    """Write one model folder as a whole or not at all."""

    def hear(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(f"{part.kind} (MB)", done // 1_000_000, max(1, total // 1_000_000))

    def write(temporary: Path) -> None:
        config = {"kind": part.kind, "format": checkpoint.FORMAT}
        config["config"] = checkpoint.config_to_dict(part.config)
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        source = json.dumps(_fingerprint(part, dtype), indent=2)
        (temporary / "source.json").write_text(source + "\n")
        weights = temporary / "model.safetensors"
        write_tensors(weights, part.tensors, dtype=dtype, on_progress=hear)

    checkpoint.write_folder(folder, write)


def _complete(source: Source, folder: Path, report: dict[str, Any]) -> None:
    """Write what stands beside the parts, and the manifest last."""
    before = folder / "conversion.json"
    if before.is_file():
        # parts may come from several sources, one conversion after another
        with suppress(ValueError, KeyError, TypeError):
            report["parts"] = {**json.loads(before.read_bytes())["parts"], **report["parts"]}
    report["missing"] = missing_in(folder, source)
    write_file(folder / "conversion.json", (json.dumps(report, indent=1) + "\n").encode())
    if source.tokenizer is not None:
        write_file(folder / "tokenizer.json", source.tokenizer.read_bytes())
    checkpoint.write_manifest(folder)


def missing_in(folder: Path, source: Source) -> list[str]:
    """Return what a whole model needs that neither the folder nor the source has."""
    return [
        name
        for name in source.missing
        if not (folder / name / "config.json").is_file() and not (folder / name).is_file()
    ]


def write_file(path: Path, content: bytes) -> None:
    """Write a small file as a whole or not at all."""
    handle, temporary = tempfile.mkstemp(prefix=".file.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
