"""``--set key=value``."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from khala.errors import ConfigError
from khala.recipes.overrides import apply_overrides, field_names
from khala.train import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A config with a group, a tuple and an optional."""

    train: TrainConfig
    levels: tuple[int, ...] = (1, 2)
    name: str | None = None


RUN = Run(train=TrainConfig(num_steps=10, lr=0.1))


def test_values_are_typed_and_checked_again() -> None:
    """A learning rate given as text, or a step count of half a step, must never start a run."""
    run = apply_overrides(
        RUN,
        ["train.lr=3e-4", "train.schedule=wsd", "levels=[4,8]", "name=mine", "train.compile=true"],
    )
    assert (run.train.lr, run.train.schedule, run.levels) == (3e-4, "wsd", (4, 8))
    assert (run.name, run.train.compile) == ("mine", True)
    assert apply_overrides(run, ["name=null"]).name is None
    for wrong in ("train.lr=fast", "train.num_steps=1.5", "train.lr=-1", "levels=3", "train=3"):
        with pytest.raises(ConfigError):
            apply_overrides(RUN, [wrong])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("train.lrr=1", "nearest: lr "), ("trian.lr=1", "nearest: train"), ("train.lr", "key=value")],
)
def test_mistyped_keys_are_answered_with_the_nearest(wrong: str, said: str) -> None:
    """A mistyped setting that is silently ignored costs a whole run."""
    with pytest.raises(ConfigError, match=said):
        apply_overrides(RUN, [wrong])


def test_every_key_can_be_listed() -> None:
    """Help must show what can be set."""
    assert {"train.lr", "levels", "name"} <= set(field_names(RUN))
