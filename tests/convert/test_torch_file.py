"""Files of torch.save are read as data, and what would run something is refused."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from khala.convert import read_state_dict, read_torch_file
from khala.convert.pickles import Record, read_pickle
from khala.errors import CheckpointError


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._mark}",)


def rewritten(path: Path, **entries: bytes | None) -> Path:
    """Write a copy of a torch file with some entries replaced, or left out."""
    copy = path.with_name("copy.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            last = name.split("/", 1)[1].replace("/", "_").replace(".", "_")
            data = entries.get(last, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return copy


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_everything_a_checkpoint_may_hold_comes_back(tmp_path: Path, protocol: int) -> None:
    """A reader that misses a kind of value loses somebody's weights, or their numbers."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(7, 5, generator=generator)
    whole = {
        "state_dict": OrderedDict(
            plain=table,
            turned=table.T[1:4],
            half=table.half(),
            brain=table.bfloat16(),
            counts=torch.arange(-3, 4),
            flags=table > 0,
            one=torch.tensor(2.5),
            none=torch.empty(0, 3),
            weight=nn.Parameter(table * 2),
        ),
        "epoch": 3, "best": 0.25, "big": 1 << 70, "name": "żółw", "raw": b"\0\xff",
        "list": [1, (2, "x"), {"a"}, frozenset({4}), None, True], "size": table.shape,
    }  # fmt: skip
    path = tmp_path / "model.pt"
    torch.save(whole, path, pickle_protocol=protocol)
    found = read_torch_file(path)
    state = read_state_dict(path)
    for name, tensor in whole["state_dict"].items():  # type: ignore[attr-defined]
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor.detach()), name
    rest = {key: value for key, value in found.items() if key != "state_dict"}
    assert rest == {key: value for key, value in whole.items() if key != "state_dict"}
    state["plain"][0] = 9.0
    assert torch.equal(read_state_dict(path)["plain"], table), "the file was written to"


def test_a_module_s_own_state_is_read(tmp_path: Path) -> None:
    """state_dict() carries metadata as attributes, which are no weights."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    torch.save(model.state_dict(), tmp_path / "model.bin")
    assert read_state_dict(tmp_path / "model.bin").keys() == model.state_dict().keys()


def test_nothing_in_a_hostile_file_runs(tmp_path: Path) -> None:
    """Loading a stranger's weights must not be running a stranger's program."""
    mark = tmp_path / "ran"
    path = tmp_path / "hostile.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(2)}, "callbacks": Hostile(mark)}, path)
    with pytest.raises(CheckpointError, match=r"posix\.system.* nothing was run"):
        read_torch_file(path)
    for protocol in range(6):
        with pytest.raises(CheckpointError, match="system"):
            read_pickle(pickle.dumps(Hostile(mark), protocol=protocol), builders={})
    by_instruction = b"cos\nsystem\n(S'touch x'\ntR.", b"(S'touch x'\nios\nsystem\n.", b"\x82\x01."
    for data in by_instruction:
        with pytest.raises(CheckpointError):
            read_pickle(data, builders={"os.path": dict})
    assert not mark.exists()


def test_a_whole_module_is_refused_by_name(tmp_path: Path) -> None:
    """A pickled class needs its code: that is not weights."""
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_torch_file(tmp_path / "model.pt")


def test_classes_kept_as_records_hold_what_was_stored() -> None:
    """Metadata of other programs is read without their classes."""
    data = pickle.dumps(Record("x", (1,), state={"a": [2]}))
    (made,) = [read_pickle(data, builders={}, records=["khala.convert.pickles."])]
    assert isinstance(made, Record)
    assert made.name == "khala.convert.pickles.Record"
    with pytest.raises(CheckpointError, match="Record"):
        read_pickle(data, builders={}, records=["khala.convert.picklesX"])


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_pickle_is_an_error_and_never_another(seed: int) -> None:
    """Flipped bits may ask for anything; the answer is a value or one kind of error."""
    stream = io.BytesIO()
    pickle.dump({"a": [1, 2.5, "x" * 40], "b": OrderedDict(c=(1, 2, 3))}, stream, protocol=seed % 6)
    generator = torch.Generator().manual_seed(seed)
    data = bytearray(stream.getvalue())
    for at in torch.randint(len(data), (3,), generator=generator).tolist():
        data[at] ^= 1 << int(torch.randint(8, (1,), generator=generator))
    with suppress(CheckpointError):
        read_pickle(bytes(data), builders={"collections.OrderedDict": dict})


def test_files_that_are_not_what_they_seem(tmp_path: Path) -> None:
    """Each says what is wrong with it, and where."""
    path = tmp_path / "model.pt"
    torch.save({"w": torch.arange(1000.0)}, path)
    with pytest.raises(CheckpointError, match="there is no file"):
        read_torch_file(tmp_path / "none.pt")
    cut = tmp_path / "cut.pt"
    cut.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="damaged"):
        read_torch_file(cut)
    torch.save({"w": 1}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before 1\.6"):
        read_torch_file(tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match="cut short"):
        read_torch_file(rewritten(path, data_0=b"1234"))
    with pytest.raises(CheckpointError, match="missing"):
        read_torch_file(rewritten(path, data_0=None))
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        read_torch_file(rewritten(path, data_pkl=None))
    with pytest.raises(CheckpointError, match="big order"):
        read_torch_file(rewritten(path, byteorder=b"big"))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="a list"):
        read_state_dict(tmp_path / "list.pt")
    torch.save({"epoch": 2}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="no tensors"):
        read_state_dict(tmp_path / "empty.pt")


def test_a_tensor_never_sees_past_its_bytes(tmp_path: Path) -> None:
    """A view into other memory would be a leak, or a crash."""
    path = tmp_path / "model.pt"
    torch.save({"w": torch.arange(200.0)}, path)
    with zipfile.ZipFile(path) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith("data.pkl")]
        pickled = archive.read(name)
    assert pickled.count(b"K\xc8") >= 1, "200 as one byte"
    longer = pickled.replace(b"K\xc8", b"K\xc9")
    with pytest.raises(CheckpointError, match=r"cut short|past its storage"):
        read_torch_file(rewritten(path, data_pkl=longer))
    last = pickled.rindex(b"K\xc8")
    only_view = pickled[:last] + b"K\xff" + pickled[last + 2 :]
    with pytest.raises(CheckpointError, match="past its storage"):
        read_torch_file(rewritten(path, data_pkl=only_view))
