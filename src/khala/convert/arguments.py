"""The arguments a language model was trained with, as its source has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from khala.convert.dcp import DTYPES
from khala.convert.pickles import STANDARD, Record
from khala.convert.torch_file import read_torch_file
from khala.errors import CheckpointError

__all__ = ["find_arguments"]

MAX_BYTES = 4 << 20
PUBLISHED_NORM_EPS = 1e-6
RECORDS = ("megatron.", "torch.distributed.", "torch.device", "numpy.", *STANDARD)
"""Classes that Megatron keeps beside its arguments."""


def find_arguments(
    files: Sequence[Path], common: Path | None = None
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the arguments, None if there are none, and what is to be known about them.

    Args:
        files: JSON files that may be there; the first one counts.
        common: Megatron's ``common.pt``, read if there is no JSON file.

    Raises:
        CheckpointError: a JSON file that cannot be read.
    """
    for path in files:
        if path.is_file():
            return _from_json(path), [f"arguments are those of {path.name}"]
    if common is None or not common.is_file():
        return None, []
    try:
        found = read_torch_file(common, lazy=True, records=[*RECORDS, *DTYPES])
    except CheckpointError as error:
        return None, [f"the arguments in {common.name} are not used: {error}"]
    args = found.get("args") if isinstance(found, dict) else None
    values = args.state if isinstance(args, Record) else args
    if not isinstance(values, dict):
        return None, [f"{common.name} has no arguments"]
    notes = [f"arguments are those of {common.name}"]
    # The published program sets this one itself, whatever the checkpoint says.
    said = values.get("norm_epsilon", PUBLISHED_NORM_EPS)
    if said != PUBLISHED_NORM_EPS:
        notes.append(f"norm_epsilon is {said} there; {PUBLISHED_NORM_EPS} is used, as published")
    return {**values, "norm_epsilon": PUBLISHED_NORM_EPS}, notes


def _from_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path} is over {MAX_BYTES >> 20} MiB")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if isinstance(values, dict) and isinstance(values.get("args"), dict):
        values = values["args"]
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return values
