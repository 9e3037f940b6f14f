"""Runs of super-resolution by name."""

from __future__ import annotations

from dataclasses import replace

from khala.nn.lora import LoraConfig
from khala.recipes.backbone import backbone_full, debug_trunk, full_trunk, nano_trunk, tuning
from khala.superres import SuperResConfig
from khala.tokens import nano_layout, published_layout
from khala.train.prompts import PromptConfig
from khala.train.state import TrainConfig
from khala.train.tasks.superres import SuperResRun, SuperResTaskConfig

__all__ = [
    "superres_debug",
    "superres_full",
    "superres_nano",
    "superres_nano_lora",
    "superres_nano_tune",
]


def superres_debug() -> SuperResRun:
    """Return a run of seconds, for tests and for trying the chain."""
    return SuperResRun(
        model=SuperResConfig(
            trunk=debug_trunk(), layout=nano_layout(), max_positions=1024, factor_rank=4
        ),
        task=SuperResTaskConfig(
            positions_per_batch=1024,
            prompts=PromptConfig(max_tokens=512),
            valid_levels=(2, 63),
            num_valid_songs=1,
        ),
        train=TrainConfig(
            num_steps=20,
            lr=3e-3,
            warmup_steps=5,
            log_every=5,
            validate_every=0,
            precision="float32",
        ),
    )


def superres_nano() -> SuperResRun:
    """Return the bundled model's run."""
    return SuperResRun(
        model=SuperResConfig(
            trunk=nano_trunk(),
            layout=nano_layout(),
            max_positions=6144,
            factor_rank=32,
            sampling_top_k=400,
            sampling_temperature=0.7,
        ),
        # The low levels carry most of what is heard. Whole songs: of an excerpt's positions more
        # than half are its prompt.
        task=SuperResTaskConfig(positions_per_batch=4096, level_power=1.0, task_0_ratio=0.1),
        train=TrainConfig(
            num_steps=10_000,
            lr=4e-3,
            warmup_steps=100,
            schedule="wsd",
            decay_fraction=0.3,
            optimiser="muon",
            validate_every=1000,
        ),
    )


def superres_full() -> SuperResRun:
    """Return a run of the published super-resolution, for large machines; never run so far.

    Published: the shape, the start from a backbone, AdamW, 2,000 steps of warm-up, 256 streams of
    8,192 positions a step, Task 0 in the mixture, and, by the released file's name, 10,000 steps.
    Stated nowhere, and so ours: rates and their course, the share of Task 0, and that levels are
    drawn alike.
    """
    return SuperResRun(
        model=SuperResConfig(
            trunk=full_trunk(), layout=published_layout(), max_positions=8192, num_rows=193_920
        ),
        task=SuperResTaskConfig(
            positions_per_batch=8192, task_0_ratio=0.15, prompts=PromptConfig(max_tokens=2048)
        ),
        train=replace(backbone_full().train, num_steps=10_000, lr=1e-4),
    )


def superres_nano_tune(model: SuperResConfig) -> SuperResRun:
    """Return a run that goes on with a model's own weights, on anybody's songs."""
    return SuperResRun(
        model=model,
        task=SuperResTaskConfig(positions_per_batch=4096, level_power=1.0, task_0_ratio=0.1),
        train=tuning(lr=3e-4),
    )


def superres_nano_lora(model: SuperResConfig) -> SuperResRun:
    """Return the same run for a low-rank change: an adapter of a megabyte."""
    run = superres_nano_tune(model)
    return replace(run, task=replace(run.task, lora=LoraConfig()), train=tuning(lr=3e-3))
