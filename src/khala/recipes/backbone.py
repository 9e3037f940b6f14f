"""Runs of the backbone by name."""

from __future__ import annotations

from dataclasses import replace

from khala.backbone import BackboneConfig
from khala.nn import TrunkConfig
from khala.nn.lora import LoraConfig
from khala.tokens import nano_layout, published_layout
from khala.train.prompts import PromptConfig
from khala.train.state import TrainConfig
from khala.train.tasks.backbone import BackboneRun, BackboneTaskConfig

__all__ = [
    "backbone_debug",
    "backbone_full",
    "backbone_nano",
    "backbone_nano_lora",
    "backbone_nano_short",
    "backbone_nano_tune",
    "debug_trunk",
    "full_trunk",
    "nano_trunk",
    "tuning",
]


def debug_trunk() -> TrunkConfig:
    """Return a trunk that trains in seconds on one core."""
    return TrunkConfig(
        width=32, num_layers=2, num_heads=2, num_kv_heads=1, head_width=16, ffn_width=64
    )


def nano_trunk() -> TrunkConfig:
    """Return the bundled model's trunk: 5.8 million numbers."""
    return TrunkConfig(
        width=256, num_layers=8, num_heads=4, num_kv_heads=2, head_width=64, ffn_width=704
    )


def full_trunk() -> TrunkConfig:
    """Return the published trunk: 1.08 billion numbers (arXiv 2605.01790)."""
    return TrunkConfig(
        width=2048, num_layers=24, num_heads=32, num_kv_heads=8, head_width=64, ffn_width=5632
    )


def nano_prompts() -> PromptConfig:
    """Return how the bundled model's songs are asked for: by tags more often than not, as tempo
    and key are heard in the first seconds alone and hardly learned from what seldom names them."""
    return PromptConfig(
        description_ratio=0.25, empty_ratio=0.08, bare_ratio=0.12, subset_ratio=0.35
    )


def backbone_debug() -> BackboneRun:
    """Return a run of seconds, for tests and for trying the chain."""
    return BackboneRun(
        model=BackboneConfig(trunk=debug_trunk(), layout=nano_layout(), max_positions=2048),
        task=BackboneTaskConfig(
            tokens_per_batch=2048, prompts=PromptConfig(max_tokens=512), num_valid_songs=2
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


def backbone_nano_short() -> BackboneRun:
    """Return the bundled model's first stage: lines and sections, where words are soon found."""
    return BackboneRun(
        model=BackboneConfig(trunk=nano_trunk(), layout=nano_layout(), max_positions=8192),
        # Small batches: words are found after a number of updates, hardly of tokens.
        task=BackboneTaskConfig(
            tokens_per_batch=3072,
            excerpt_max_s=16.0,
            line_excerpts=True,
            max_duration_s=16.0,
            prompts=nano_prompts(),
            alignment=0.5,
            lessons=0.3,
        ),
        train=TrainConfig(
            num_steps=4000,
            lr=3e-3,
            warmup_steps=100,
            schedule="wsd",
            decay_fraction=0.2,
            optimiser="muon",
            validate_every=0,
        ),
    )


def backbone_nano() -> BackboneRun:
    """Return the bundled model's second stage: whole songs beside their lines and sections."""
    return BackboneRun(
        model=BackboneConfig(
            trunk=nano_trunk(), layout=nano_layout(), max_positions=8192, guidance_scale=2.0
        ),
        task=BackboneTaskConfig(
            tokens_per_batch=6144,
            excerpt_max_s=16.0,
            line_excerpts=True,
            prompts=nano_prompts(),
            alignment=0.5,
            lessons=0.3,
        ),
        train=TrainConfig(
            num_steps=4000,
            lr=2e-3,
            warmup_steps=50,
            schedule="wsd",
            decay_fraction=0.4,
            optimiser="muon",
            validate_every=1000,
        ),
    )


def backbone_full() -> BackboneRun:
    """Return a run of the published backbone from nothing, for large machines; never run so far.

    Published: the shape, AdamW, 2,000 steps of warm-up, 256 streams of 16,384 tokens a step, and,
    by the released file's name, 36,000 steps. Stated nowhere, and so ours: rates and their course,
    betas and decay, the windowed normaliser, and the mixture of prompts. Its text ids are those of
    the Llama 3.1 tokenizer: give that with --tokenizer.
    """
    return BackboneRun(
        model=BackboneConfig(
            trunk=full_trunk(), layout=published_layout(), max_positions=16_384, num_rows=130_432
        ),
        task=BackboneTaskConfig(tokens_per_batch=16_384, prompts=PromptConfig(max_tokens=4096)),
        train=TrainConfig(
            num_steps=36_000,
            num_parts=256,
            lr=3e-4,
            warmup_steps=2000,
            schedule="wsd",
            decay_fraction=0.2,
            sharding="layers",
            recompute=True,
            on_nonfinite="skip",
            checkpoint_every_s=1800.0,
            log_every=10,
            validate_every=500,
        ),
    )


def tuning(lr: float) -> TrainConfig:
    """Return a loop for going on from a trained model: a low rate that soon begins to fall.

    No Muon: it turns every direction of a matrix by the same amount, however little there is to
    learn in it.
    """
    return TrainConfig(
        num_steps=200,
        lr=lr,
        warmup_steps=20,
        schedule="cosine",
        optimiser="adamw",
        weight_decay=0.01,
        validate_every=100,
    )


def backbone_nano_tune(model: BackboneConfig) -> BackboneRun:
    """Return a run that goes on with a model's own weights, on anybody's songs.

    Nothing is asked of the songs but their sound and texts: no times of words or chords.
    """
    return BackboneRun(
        model=model,
        # The longest song of the bundled model fits a batch.
        task=BackboneTaskConfig(tokens_per_batch=8192, prompts=nano_prompts()),
        train=tuning(lr=3e-4),
    )


def backbone_nano_lora(model: BackboneConfig) -> BackboneRun:
    """Return the same run for a low-rank change: an adapter of a megabyte.

    Its rate is ten times higher: at 1e-2 it learns no more and forgets twice as much.
    """
    run = backbone_nano_tune(model)
    return replace(run, task=replace(run.task, lora=LoraConfig()), train=tuning(lr=3e-3))
