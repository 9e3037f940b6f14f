"""Checkpoints of a run: whole or absent, verified before they are believed.

    RUN/checkpoints/step-0000500/*.safetensors   model.*, optim.*, average.*, extra.*; without
                                                 frozen parameters
                                 state.json      step, items, seconds
                                 manifest.json   sha256 and size of all, written last

Tensors go through torch's distributed checkpoints into safetensors, each process writing its own
part, so a run can be gone on with by another number of processes, and nothing is ever unpickled.
The weights are copied and the run goes on while a thread writes them, flushes them to the disk and
renames the folder. On starting again the newest one that verifies is used; a damaged one is named
and never loaded, and if all are damaged the run refuses to start instead of beginning anew.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from khala.checkpoint import sha256_file
from khala.errors import CheckpointError
from khala.train.ranks import Ranks, local
from khala.train.state import TrainState

__all__ = ["CheckpointWriter", "list_checkpoints", "load_newest", "save_checkpoint"]

FORMAT = 2


class CheckpointWriter:
    """Writes one checkpoint at a time, beside the training."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="khala-checkpoint")
        self._running: Future[None] | None = None
        self._group: Any = None

    def save(self, state: TrainState) -> None:
        """Copy the run as it is now and begin to write it; wait for the one before.

        Raises:
            OSError: the one before could not be written; older checkpoints are untouched.
        """
        self.wait()
        final = state.folder / "checkpoints" / f"step-{state.step:07d}"
        # one process may see what another has just written: the first one decides for all
        if state.ranks.any(state.ranks.is_first and final.exists()):
            return
        if state.ranks.num > 1 and self._group is None:
            self._group = dist.new_group(backend="gloo")  # threads must not share a group
        tensors = _tensors(state)
        document = {
            "format": FORMAT,
            "kind": state.task.kind,
            "step": state.step,
            "num_items": state.num_items,
            "seconds": state.seconds,
            "torch": torch.__version__,
        }
        self._running = self._thread.submit(
            _write,
            final,
            tensors,
            document,
            state.ranks,
            self._group,
            state.config.keep_checkpoints,
        )

    def wait(self) -> None:
        """Wait until the last checkpoint is whole.

        Raises:
            OSError: the disk is full or not writable.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()


def save_checkpoint(state: TrainState) -> None:
    """Write the run as it is now, and wait until it is whole.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are untouched.
    """
    writer = CheckpointWriter()
    writer.save(state)
    writer.wait()


def _write(
    final: Path,
    tensors: dict[str, Tensor],
    document: dict[str, Any],
    ranks: Ranks,
    group: Any,
    num_kept: int,
) -> None:
    """Write a checkpoint beside its place and rename it; drop all but the newest few."""
    temporary = final.with_name(f"{final.name}.tmp")
    if ranks.is_first:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    _meet(ranks, group)
    try:
        writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one process saves alone is meant
            try:
                save(tensors, storage_writer=writer, process_group=group, no_dist=ranks.num == 1)
            except CheckpointException as error:  # no Exception: nobody else would catch it
                raise _cause(error, final) from None
        _meet(ranks, group)
        if ranks.is_first:
            _seal(temporary, document)
            temporary.rename(final)
    except BaseException:
        if ranks.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    if ranks.is_first:
        _flush(final.parent)
        for old in list_checkpoints(final.parent.parent)[:-num_kept]:
            shutil.rmtree(old)
    _meet(ranks, group)


def _cause(error: CheckpointException, path: Path) -> OSError:
    """Return why the first process that failed could not write a checkpoint."""
    cause = next(iter(error.failures.values()))[0]
    if isinstance(cause, OSError) and cause.errno is not None:
        return OSError(cause.errno, os.strerror(cause.errno), str(path))
    return OSError(f"{path} cannot be written: {cause}")


def _seal(folder: Path, document: dict[str, Any]) -> None:
    """Write the manifest and make the disk hold everything."""
    (folder / "state.json").write_text(json.dumps(document, indent=2) + "\n")
    files = {
        path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    (folder / "manifest.json").write_text(json.dumps({"files": files}, indent=2) + "\n")
    for name in (*files, "manifest.json"):
        _flush(folder / name)
    _flush(folder)


def _meet(ranks: Ranks, group: Any) -> None:
    if ranks.num > 1:
        dist.barrier(group=group)


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
    """Return copies on the CPU of all a run is made of, of what is sharded this process's parts.

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
        if "state.json" not in files or len(files) < 2:
            return f"{path / 'manifest.json'} names too few files"
        for name, wanted in files.items():
            if not (path / name).is_file():
                return f"{path / name} is missing"
            if sha256_file(path / name) != wanted["sha256"]:
                return f"{path / name} does not have the sha256 of its manifest"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path / 'manifest.json'} cannot be used: {error!r}"
    return None


def _load(state: TrainState, path: Path) -> None:
    """Fill a state from a verified checkpoint."""
    document = json.loads((path / "state.json").read_text())
    if document.get("format") != FORMAT or document.get("kind") != state.task.kind:
        raise CheckpointError(
            f"{path} is not a checkpoint of a {state.task.kind} run, or is of another version"
        )
    try:
        parts = _read(state, path)
        own = state.task.model.state_dict()
        for name, tensor in parts["model"].items():
            local(own[name]).copy_(local(tensor))
        state.average.load(parts["average"])
        state.optimiser.load_state_tensors(parts["optim"])
        state.task.load_extra_state(parts["extra"])
        state.step = int(document["step"])
        state.num_items = int(document["num_items"])
        state.seconds = float(document["seconds"])
    except (RuntimeError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error


def _read(state: TrainState, path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a checkpoint by part, sharded as this run's are.

    Raises:
        CheckpointError: they are not those of this run's model.
    """
    reader = HuggingFaceStorageReader(str(path))
    stored = reader.read_metadata().state_dict_metadata
    model = state.task.model
    kept = {name: one for name, one in model.state_dict().items() if name not in _frozen(model)}
    known = {f"model.{name}": one for name, one in kept.items()}
    known |= {f"average.{name}": one for name, one in state.average.tensors.items()}
    room: dict[str, Tensor] = {}
    for name, about in stored.items():
        assert isinstance(about, TensorStorageMetadata)
        dtype, part = about.properties.dtype, name.partition(".")[0]
        if name in known:
            if known[name].shape != about.size:
                raise CheckpointError(
                    f"{path} does not fit this model: {name} has shape {tuple(about.size)}, here "
                    f"{tuple(known[name].shape)}"
                )
            room[name] = torch.zeros_like(known[name].detach(), dtype=dtype)
        elif part == "optim":
            rest = name.partition(".")[2]
            room[name] = state.optimiser.room_for(rest, about.size, dtype)
        elif part == "extra":
            room[name] = torch.zeros(about.size, dtype=dtype)
        else:
            raise CheckpointError(f"{path} does not fit this model: it has no {name}")
    missing = sorted(known.keys() - stored.keys())
    if missing:
        raise CheckpointError(f"{path} does not fit this model: {missing[0]} is missing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(room, storage_reader=reader, no_dist=state.ranks.num == 1)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optim": {}, "average": {}, "extra": {}}
    for name, tensor in room.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return parts


def _flush(path: Path) -> None:
    """Make the disk hold a file or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
