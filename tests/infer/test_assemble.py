"""Trained parts become a model that anybody can load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from khala.checkpoint import digest
from khala.errors import CheckpointError, ConfigError
from khala.infer.assemble import assemble_model


def test_parts_become_the_same_model(tiny_model: Path, tmp_path: Path) -> None:
    """Who trains three parts can make songs with them, and send the folder to a friend."""
    made = assemble_model(
        codec=tiny_model / "codec",
        backbone=tiny_model,
        superres=tiny_model / "superres",
        out=tmp_path / "deep" / "model",
    )
    assert made == digest(tiny_model) == digest(tmp_path / "deep" / "model")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]
    with pytest.raises(ConfigError, match="there already"):
        assemble_model(
            codec=tiny_model, backbone=tiny_model, superres=tiny_model, out=tmp_path / "deep"
        )


def test_parts_that_do_not_belong_together(
    tiny_model: Path, make_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """A codec of other levels would be noise: it is refused, and nothing is left."""
    other = make_tiny_model(tmp_path / "other", num_levels=4)
    for codec, superres in ((other, tiny_model), (tiny_model, other)):
        with pytest.raises(ConfigError, match=r"levels|alphabets"):
            assemble_model(
                codec=codec, backbone=tiny_model, superres=superres, out=tmp_path / "out" / "m"
            )
    path = other / "backbone" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        assemble_model(codec=other, backbone=other, superres=other, out=tmp_path / "out" / "m")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
