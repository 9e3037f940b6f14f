"""Model folders: strict configs, checked bytes, compact storage."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from khala import checkpoint
from khala.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int
    rate: float = 0.5
    inner: Inner | None = None


def write(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    model = nn.Linear(40, 30)
    tensors = checkpoint.stored(model.state_dict(), dtype)
    checkpoint.save_model(folder, kind="toy", config=Config(width=3), tensors=tensors)
    return model


def test_round_trip(tmp_path: Path) -> None:
    """What was trained must be what plays."""
    model = write(tmp_path / "m")
    assert checkpoint.load_config(tmp_path / "m", "toy", Config) == Config(width=3)
    other = nn.Linear(40, 30)
    checkpoint.load_into(other, tmp_path / "m")
    assert torch.equal(model.weight, other.weight)
    nested = Config(width=1, inner=Inner(sizes=(4,)))
    values = json.loads(json.dumps(checkpoint.config_to_dict(nested)))
    assert checkpoint.config_from_dict(Config, values) == nested


def test_int8_rows_are_close_and_small(tmp_path: Path) -> None:
    """A coarser rounding than promised would be heard as noise."""
    model = write(tmp_path / "m", torch.int8)
    tensors = checkpoint.load_tensors(tmp_path / "m")
    error = (tensors["weight"] - model.weight).abs()
    assert bool((error <= model.weight.abs().amax(1, keepdim=True) / 254 * 1.001).all())
    assert torch.equal(tensors["bias"], model.bias)
    again = checkpoint.stored(tensors, torch.int8)
    torch.testing.assert_close(checkpoint.stored(model.state_dict(), torch.int8), again)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "manifest.json"])
def test_every_flipped_byte_is_noticed(tmp_path: Path, name: str) -> None:
    """A damaged download would sound wrong, or only a little wrong, without a word."""
    write(tmp_path / "m")
    path = tmp_path / "m" / name
    content = path.read_bytes()
    reference = checkpoint.digest(tmp_path / "m")
    for position in range(0, len(content), max(1, len(content) // 60)):
        changed = bytearray(content)
        changed[position] ^= 4
        path.write_bytes(changed)
        try:
            checkpoint.load_config(tmp_path / "m", "toy", Config)
            checkpoint.load_into(nn.Linear(40, 30), tmp_path / "m")
            noticed = checkpoint.digest(tmp_path / "m") != reference
        except CheckpointError:
            noticed = True
        # White space of the manifest means nothing.
        harmless = name == "manifest.json" and chr(content[position]).isspace()
        assert noticed or harmless, f"byte {position} of {name}"


def test_both_sides_must_agree(tmp_path: Path) -> None:
    """A missing, extra or misshapen tensor is another model."""
    write(tmp_path / "m")
    for module, message in (
        (nn.Linear(40, 31), "shape"),
        (nn.Linear(40, 30, bias=False), "not part"),
        (nn.Sequential(nn.Linear(40, 30)), "missing"),
    ):
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load_into(module, tmp_path / "m")
    with pytest.raises(CheckpointError, match="holds a 'toy' model"):
        checkpoint.load_config(tmp_path / "m", "codec", Config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 0.5}, "missing field 'width'"),
        ({"width": 3, "rate": 0.5, "inner": None, "extra": 1}, "unknown field 'extra'"),
        ({"width": "3", "rate": 0.5, "inner": None}, "width"),
        ({"width": True, "rate": 0.5, "inner": None}, "width"),
        ({"width": 3, "rate": 0.5, "inner": {"sizes": [1.5]}}, "sizes"),
        ([], "must be an object"),
    ],
)
def test_configs_are_read_strictly(values: object, message: str) -> None:
    """A setting that is ignored is a model that is not the one that was trained."""
    with pytest.raises(CheckpointError, match=message):
        checkpoint.config_from_dict(Config, values)


def test_a_field_younger_than_the_file_has_its_default() -> None:
    """A model that somebody trained yesterday must load tomorrow."""
    assert checkpoint.config_from_dict(Config, {"width": 3}) == Config(width=3)


def test_a_failed_write_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not take the last good weights with it."""
    write(tmp_path / "m")
    before = checkpoint.digest(tmp_path / "m")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "m", torch.int8)
    assert checkpoint.digest(tmp_path / "m") == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_models_are_found_by_name_or_folder(tmp_path: Path) -> None:
    """A wrong name must say what is allowed."""
    with pytest.raises(CheckpointError, match="nano"):
        checkpoint.resolve_model(tmp_path / "nothing")
    write(tmp_path / "whole" / "codec")
    assert checkpoint.resolve_part(tmp_path / "whole", "codec") == tmp_path / "whole" / "codec"
    folder = tmp_path / "whole" / "codec"
    assert checkpoint.resolve_part(folder, "codec") == folder
    with pytest.raises(CheckpointError, match="holds no backbone"):
        checkpoint.resolve_part(tmp_path / "whole", "backbone")


def test_a_model_saved_through_a_link_goes_where_it_points(tmp_path: Path) -> None:
    """A run's folder may lie on another disk: the link must neither break nor be replaced."""
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    for value in (1.0, 2.0):
        tensors = {"a": torch.tensor([value])}
        checkpoint.save_model(
            tmp_path / "link", kind="toy", config=Config(width=3), tensors=tensors
        )
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "disk" / "model" / "model.safetensors").is_file()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["model"]


def test_weights_are_mapped_and_the_file_is_safe(tmp_path: Path) -> None:
    """Twice the memory for every model, or a model file changed by a fine-tuning, would be bad."""
    big = nn.Linear(1024, 1024, dtype=torch.bfloat16)
    tensors = big.state_dict()
    checkpoint.save_model(tmp_path / "m", kind="toy", config=Config(width=3), tensors=tensors)
    with torch.device("meta"):
        module = nn.Linear(1024, 1024)
    checkpoint.load_module(module, tmp_path / "m")
    assert module.weight.dtype == torch.bfloat16
    assert torch.equal(module.weight, big.weight)
    with torch.no_grad():
        module.weight.zero_()
    again = checkpoint.load_tensors(tmp_path / "m")
    assert torch.equal(again["weight"], big.weight)
    checkpoint.release(module)
    assert module.weight.is_meta
    checkpoint.load_module(module, tmp_path / "m", dtype=torch.float32)
    assert torch.equal(module.weight, big.weight.float())
