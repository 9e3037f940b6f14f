"""Megatron's names and layouts against recorded results of the reference converter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_weights import uniform
from torch import Tensor

from khala.convert.dcp import read_distributed
from khala.convert.megatron import megatron_sizes, megatron_tensors
from khala.convert.sizes import trunk_config

HERE = Path(__file__).parent
ARGUMENTS = {"num_attention_heads": 4, "num_query_groups": 2, "kv_channels": 4}
SEED = 5


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(HERE / "mapping.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def test_the_golden_checkpoint(golden: dict[str, Tensor]) -> None:
    """A tensor in another's place, or rows in another order, is noise instead of music."""
    found = read_distributed(HERE / "dcp_tiny")
    assert list(found.skipped.values()) == [
        "state of the optimiser",
        "state of the training library's layers, no weights",
    ]
    sizes = megatron_sizes(found.tensors, source="golden")
    trunk, _ = trunk_config(sizes, ARGUMENTS, source="golden")
    plain = megatron_tensors(found.tensors, trunk, num_rows=sizes.num_rows, source="golden")
    assert {one.name for one in plain} == golden.keys()
    for one in plain:
        wanted = golden[one.name]
        assert one.shape == wanted.shape
        assert torch.equal(one.read(0, one.shape[0]), wanted.bfloat16()), one.name
        middle = slice(1, one.shape[0] - 2)
        assert torch.equal(one.read(middle.start, middle.stop), wanted.bfloat16()[middle])


def test_the_golden_checkpoint_holds_what_the_formula_says() -> None:
    """A reader that shifts numbers by one would still find every name and shape."""
    for name, tensor in read_distributed(HERE / "dcp_tiny").tensors.items():
        values = 0.5 * uniform(f"mapping/{name}", tensor.read().numel(), SEED)
        wanted = torch.from_numpy(values.astype(np.float32)).view(tensor.shape).bfloat16()
        assert torch.equal(tensor.read(), wanted), name


class InMemory:
    """A tensor that was never stored."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        values = 0.5 * uniform(f"mapping/{name}", int(np.prod(shape)), SEED)
        self.tensor = torch.from_numpy(values.astype(np.float32)).view(shape)
        self.shape, self.dtype = shape, torch.float32

    def read(self, lo: int = 0, hi: int | None = None) -> Tensor:
        return self.tensor[lo:hi]


def test_the_mapping_in_float32(golden: dict[str, Tensor]) -> None:
    """bfloat16 could hide a sum or a product on the way; every number must come through exactly."""
    shapes = {n: t.shape for n, t in read_distributed(HERE / "dcp_tiny").tensors.items()}
    stored = {name: InMemory(name, shape) for name, shape in shapes.items()}
    sizes = megatron_sizes(stored, source="golden")
    trunk, _ = trunk_config(sizes, ARGUMENTS, source="golden")
    for one in megatron_tensors(stored, trunk, num_rows=sizes.num_rows, source="golden"):
        assert torch.equal(one.read(0, one.shape[0]), golden[one.name]), one.name
