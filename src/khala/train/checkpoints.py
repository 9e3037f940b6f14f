"""Checkpoints of a run: whole or absent, verified before they are believed.

    RUN/checkpoints/step-0000500/state.safetensors   model.*, optim.*, average.*, extra.*; without
                                                     frozen parameters
                                 state.json          step, items, seconds
                                 manifest.json       sha256 and size of both, written last

A checkpoint is written beside its place, flushed to the disk and renamed. On starting again the
newest one that verifies is used; a damaged one is named and never loaded, and if all are damaged
the run refuses to start instead of beginning anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from khala.checkpoint import sha256_file
from khala.errors import CheckpointError
from khala.train.state import TrainState

__all__ = ["list_checkpoints", "load_newest", "save_checkpoint"]

FORMAT = 1


def save_checkpoint(state: TrainState) -> Path:
    """Write the run as it is now; drop all but the newest few checkpoints.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are untouched.
    """
    folder = state.folder / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{state.step:07d}"
    if final.exists():
        return final
    temporary = folder / f"{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_file(_tensors(state), temporary / "state.safetensors")
        document = {
            "format": FORMAT,
            "kind": state.task.kind,
            "step": state.step,
            "num_items": state.num_items,
            "seconds": state.seconds,
            "torch": torch.__version__,
        }
        (temporary / "state.json").write_text(json.dumps(document, indent=2) + "\n")
        names = ("state.safetensors", "state.json")
        files = {
            name: {
                "sha256": sha256_file(temporary / name),
                "bytes": (temporary / name).stat().st_size,
            }
            for name in names
        }
        (temporary / "manifest.json").write_text(json.dumps({"files": files}, indent=2) + "\n")
        for name in (*names, "manifest.json"):
            _flush(temporary / name)
        _flush(temporary)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush(folder)
    for old in list_checkpoints(state.folder)[: -state.config.keep_checkpoints]:
        shutil.rmtree(old)
    return final


def list_checkpoints(run: Path) -> list[Path]:
    """Return the finished checkpoints of a run, oldest first."""
    return sorted(
        path for path in (run / "checkpoints").glob("step-*") if not path.name.endswith(".tmp")
    )


def load_newest(state: TrainState, say: Callable[[str], None]) -> bool:
    """Fill ``state`` from the newest whole checkpoint; return False if there is none at all.

    Raises:
        CheckpointError: there are checkpoints and none is whole, or they are of another model.
    """
    paths = list_checkpoints(state.folder)
    for path in reversed(paths):
        problem = _problem(path)
        if problem is None:
            _load(state, path)
            say(f"going on from step {state.step} ({path})")
            return True
        say(f"checkpoint refused: {problem}")
    if paths:
        raise CheckpointError(
            f"every checkpoint in {paths[0].parent} is damaged; restore one, or use a new folder"
        )
    return False


def _tensors(state: TrainState) -> dict[str, Tensor]:
    """Return everything a run is made of, on the CPU, no two sharing memory.

    Frozen parameters are not: a run starts with them again, from the model it was begun with.
    """
    frozen = _frozen(state.task.model)
    parts = {
        "model": {n: t for n, t in state.task.model.state_dict().items() if n not in frozen},
        "optim": state.optimiser.state_tensors(),
        "average": state.average.tensors,
        "extra": state.task.extra_state(),
    }
    return {
        f"{part}.{name}": tensor.detach().to("cpu", copy=True).contiguous()
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


def _frozen(model: nn.Module) -> set[str]:
    """Return the names of the parameters that are not trained."""
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def _problem(path: Path) -> str | None:
    """Say what is wrong with a checkpoint, or None."""
    try:
        files: dict[str, Any] = json.loads((path / "manifest.json").read_text())["files"]
        for name in ("state.safetensors", "state.json"):
            if not (path / name).is_file():
                return f"{path / name} is missing"
            if sha256_file(path / name) != files[name]["sha256"]:
                return f"{path / name} does not have the sha256 of its manifest"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path / 'manifest.json'} cannot be used: {error!r}"
    return None


def _load(state: TrainState, path: Path) -> None:
    """Fill a state from a verified checkpoint."""
    document = json.loads((path / "state.json").read_text())
    if document.get("format") != FORMAT or document.get("kind") != state.task.kind:
        raise CheckpointError(f"{path} is not a checkpoint of a {state.task.kind} run")
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optim": {}, "average": {}, "extra": {}}
    try:
        for name, tensor in load_file(path / "state.safetensors").items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        model = state.task.model
        kept = {n: t for n, t in model.state_dict().items() if n in _frozen(model)}
        model.load_state_dict({**kept, **parts["model"]}, strict=True)
        state.average.load(parts["average"])
        state.optimiser.load_state_tensors(parts["optim"])
        state.task.load_extra_state(parts["extra"])
        state.step = int(document["step"])
        state.num_items = int(document["num_items"])
        state.seconds = float(document["seconds"])
    except (RuntimeError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error


def _flush(path: Path) -> None:
    """Make the disk hold a file or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
