"""The arithmetic of docs/scaling.md."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from khala.backbone import Backbone
from khala.recipes import backbone_full, superres_full
from khala.superres import SuperResolution


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "scaling.py"
    spec = importlib.util.spec_from_file_location("scaling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module
    spec.loader.exec_module(module)
    return module


def test_parameters_are_counted_as_they_are(scaling: ModuleType) -> None:
    """Memory that was never there is bought, or is missing when the cluster is rented."""
    with torch.device("meta"):
        models = Backbone(backbone_full().model), SuperResolution(superres_full().model)
    for model, counted in zip(models, (scaling.backbone(), scaling.superres()), strict=True):
        layers = sum(p.numel() for p in model.layers.parameters())
        assert counted.sharded == layers
        assert counted.whole == sum(p.numel() for p in model.parameters()) - layers


def test_what_is_kept_is_what_was_counted(scaling: ModuleType) -> None:
    """A formula that nobody compared with a run is a guess with decimals."""
    rows = {row[0]: row[1:] for row in scaling.check(scaling.backbone())["rows"]}
    measured, counted, doubled = rows["kept"]
    assert measured == pytest.approx(counted, rel=0.03)
    assert doubled == pytest.approx(2.0, rel=0.02)
    measured, counted, _ = rows["recomputed"]
    assert measured == pytest.approx(counted, rel=0.01)


def test_more_machines_are_never_slower_or_fuller(scaling: ModuleType) -> None:
    """The tables are read from top to bottom; a step the wrong way would be a mistake in them."""
    model, machine = scaling.backbone(), scaling.Machine()
    fitting = [gpus for gpus in scaling.GPUS if gpus <= model.num_parts]
    seconds = [scaling.step_s(model, gpus, machine, recompute=False)[0] for gpus in fitting]
    memory = [model.memory(gpus, recompute=False) for gpus in fitting]
    assert seconds == sorted(seconds, reverse=True)
    assert memory == sorted(memory, reverse=True)
    assert all(
        model.memory(gpus, recompute=True) < model.memory(gpus, recompute=False) for gpus in fitting
    )
