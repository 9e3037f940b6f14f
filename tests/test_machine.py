"""What a computer has is found out, not assumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from khala import machine
from khala.errors import ConfigError


def test_a_device_that_is_not_there() -> None:
    """A song that was to be made on a GPU must not be made on the CPU without a word."""
    assert machine.check_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="'tpu': this computer has cpu"):
        machine.check_device("tpu")


def test_a_container_has_what_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container of 2 GB on a machine of 64, a plan for 64 ends with a killed process."""
    whole = machine.look_at("cpu").free_bytes
    assert whole is None or 0 < whole <= (machine.total_memory() or whole)
    for name, text in (
        ("memory.max", "2000000000\n"),
        ("memory.current", "1500000000\n"),
        ("memory.stat", "anon 900000000\ninactive_file 400000000\nactive_file 100000000\n"),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    if machine.total_memory() != whole:  # Linux says what is free
        assert machine.look_at("cpu").free_bytes == 1_000_000_000
    (tmp_path / "memory.max").write_text("max\n")
    free = machine.look_at("cpu").free_bytes
    assert free is None or free != 1_000_000_000


def test_precise_is_float64() -> None:
    """Sampling in less would draw other codes on other devices."""
    assert machine.precise(torch.ones(2)).dtype == torch.float64
