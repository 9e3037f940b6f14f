"""Folders of torch.distributed.checkpoint, read without running what is in them."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron_folders import save_folder
from torch import Tensor

from khala.convert.dcp import read_distributed
from khala.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "table": torch.randn(11, 7, generator=generator).bfloat16(),
        "stack": torch.randn(5, 6, 4, generator=generator),
        "vector": torch.randn(9, generator=generator).half(),
        "single": torch.tensor(2.5),
    }


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "chunks"])
def test_tensors_come_back_from_several_shards(tmp_path: Path, cut: bool) -> None:
    """A chunk in another's place would be other weights, without a word."""
    state: dict[str, Any] = {**weights(), "optimizer.state.m": torch.ones(3, 3)}
    state |= {"decoder._extra_state": {"scale": [1, 2]}, "rng_state": torch.zeros(4)}
    found = read_distributed(save_folder(tmp_path, state, cut=cut))
    assert found.tensors.keys() == weights().keys()
    assert len(found.files) >= 3
    for name, wanted in weights().items():
        tensor = found.tensors[name]
        assert (tensor.shape, tensor.dtype) == (wanted.shape, wanted.dtype)
        assert torch.equal(tensor.read(), wanted), name
        for lo in range(wanted.shape[0] if wanted.dim() else 0):
            for hi in range(lo, wanted.shape[0] + 1):
                assert torch.equal(tensor.read(lo, hi), wanted[lo:hi])
    assert "optimiser" in found.skipped["optimizer.state.m"]
    assert "random" in found.skipped["rng_state"]
    assert any("_extra_state" in name for name in found.skipped)


def change_metadata(folder: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite the metadata as its program would have."""
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(metadata) or metadata))


def test_a_path_in_the_metadata(tmp_path: Path) -> None:
    """Where a checkpoint was once written says nothing about its weights."""
    folder = save_folder(tmp_path, weights())

    def moved(metadata: Any) -> None:
        metadata.storage_meta.checkpoint_id = Path("/runs/x")

    change_metadata(folder, moved)
    assert read_distributed(folder).tensors.keys() == weights().keys()


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._mark}",)


def test_hostile_metadata_runs_nothing(tmp_path: Path) -> None:
    """Looking at a stranger's weights must not be running a stranger's program."""
    folder, mark = save_folder(tmp_path / "c", weights()), tmp_path / "ran"

    def add_hostile(metadata: Any) -> None:
        metadata.planner_data = Hostile(mark)

    change_metadata(folder, add_hostile)
    with pytest.raises(CheckpointError, match=r"posix\.system.* nothing was run"):
        read_distributed(folder)
    for data in (b"cos\nsystem\n(S'touch x'\ntR.", pickle.dumps(os.system)):
        (folder / ".metadata").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"system.* nothing was run"):
            read_distributed(folder)
    (folder / ".metadata").write_bytes(pickle.dumps({"state_dict_metadata": {}}))
    with pytest.raises(CheckpointError, match="no metadata of torch"):
        read_distributed(folder)
    assert not mark.exists()


def test_classes_of_megatron_are_read_without_megatron(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real metadata names Megatron's classes; importing them would need Megatron."""
    folder = save_folder(tmp_path, weights())
    module = types.ModuleType("megatron.core.fake")

    class Extra:
        def __init__(self) -> None:
            self.shape = (1, 2)

    Extra.__module__, Extra.__qualname__ = module.__name__, "Extra"
    module.Extra = Extra  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "megatron", types.ModuleType("megatron"))
    monkeypatch.setitem(sys.modules, "megatron.core", types.ModuleType("megatron.core"))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def add_class(metadata: Any) -> None:
        metadata.planner_data = {"a": Extra()}
        metadata.mcore_data = {"a": Extra()}

    change_metadata(folder, add_class)
    monkeypatch.undo()
    assert read_distributed(folder).tensors.keys() == weights().keys()


def test_a_half_downloaded_shard(tmp_path: Path) -> None:
    """Weights that end too soon must not be found out after an hour of conversion."""
    folder = save_folder(tmp_path, weights(), cut=True)
    shard = max(folder.glob("*.distcp"), key=lambda path: path.stat().st_size)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=f"{shard.name} has .* not downloaded to its end"):
        read_distributed(folder)
    shard.write_bytes(whole[:-100] + bytes(100))
    with pytest.raises(CheckpointError, match=f"{shard.name} is damaged"):
        read_distributed(folder)
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} is missing"):
        read_distributed(folder)
    (folder / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*\.metadata"):
        read_distributed(folder)


def test_metadata_that_lies(tmp_path: Path) -> None:
    """Each lie is one line: a file elsewhere, a chunk over another, a wrong size or kind."""

    def elsewhere(metadata: Any) -> None:
        for info in metadata.storage_data.values():
            info.relative_path = f"../{info.relative_path}"

    def two_in_one_place(metadata: Any) -> None:
        chunks = metadata.state_dict_metadata["table"].chunks
        chunks.append(chunks[0])
        chunks.pop(1)

    def too_small(metadata: Any) -> None:
        metadata.state_dict_metadata["table"].size = torch.Size((11, 5))

    def other_kind(metadata: Any) -> None:
        metadata.state_dict_metadata["table"].properties.dtype = torch.float16

    def unknown_kind(metadata: Any) -> None:
        metadata.state_dict_metadata["table"].properties.dtype = torch.complex64

    def nowhere(metadata: Any) -> None:
        for index in list(metadata.storage_data):
            if index.fqn == "table":
                del metadata.storage_data[index]

    def packed(metadata: Any) -> None:
        for info in metadata.storage_data.values():
            info.transform_descriptors = ["zstd"]

    cases = {
        elsewhere: "no file of this folder",
        two_in_one_place: "do not make up",
        too_small: "do not make up",
        other_kind: "a chunk of torch.bfloat16",
        unknown_kind: "complex64",
        nowhere: "is in no file",
        packed: "compressed",
    }
    for number, (change, message) in enumerate(cases.items()):
        folder = save_folder(tmp_path / str(number), weights(), cut=True)
        change_metadata(folder, change)
        with pytest.raises(CheckpointError, match=message):
            read_distributed(folder)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_flipped_bits_are_an_error_and_never_another(tmp_path: Path, name: str) -> None:
    """A damaged download is one line, whatever the damage makes of it."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(Path(__file__).parents[1] / "goldens" / "dcp_tiny", folder)
    whole = (folder / name).read_bytes()
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        data = bytearray(whole)
        for at in torch.randint(len(data), (1 + seed % 3,), generator=generator).tolist():
            data[at] ^= 1 << int(torch.randint(8, (1,), generator=generator))
        (folder / name).write_bytes(data)
        with suppress(CheckpointError):
            read_distributed(folder)
