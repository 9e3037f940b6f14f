"""Runs of the codec by name."""

from __future__ import annotations

from dataclasses import replace

from khala.codec import (
    CodecConfig,
    ConvConfig,
    EnvelopeConfig,
    GuideConfig,
    QuantizerConfig,
    SpectralConfig,
)
from khala.codec.adversary import AdversaryConfig
from khala.codec.discriminator import DiscriminatorConfig
from khala.codec.losses import ReconstructionLossConfig
from khala.codec.objective import CodecObjectiveConfig
from khala.train.state import TrainConfig
from khala.train.tasks.codec import CodecRun, CodecTaskConfig

__all__ = [
    "codec_conv_debug",
    "codec_debug",
    "codec_full",
    "codec_nano",
    "codec_nano_decoder",
    "nano_codec",
]


def nano_codec() -> CodecConfig:
    """Return the bundled model's codec: 64 levels whose tables take 3 MB."""
    return CodecConfig(
        spectral=SpectralConfig(fine_width=224, coarse_width=320, envelope=EnvelopeConfig()),
        guide=GuideConfig(width=96),
        quantizer=QuantizerConfig(latent_width=384, code_width=32),
    )


def codec_debug() -> CodecRun:
    """Return a run of seconds, for tests and for trying the chain."""
    codec = CodecConfig(
        spectral=SpectralConfig(
            fine_width=16,
            coarse_width=16,
            encoder_coarse_blocks=1,
            decoder_coarse_blocks=1,
            decoder_fine_blocks=1,
            skip_top_hz=(1000.0, 500.0),
            envelope=EnvelopeConfig(width=8, mid_bands=12, side_bands=4),
        ),
        guide=GuideConfig(num_mels=20, width=8, blocks=1),
        quantizer=QuantizerConfig(latent_width=32, code_width=8),
    )
    return CodecRun(
        task=CodecTaskConfig(
            codec=codec,
            batch_size=2,
            clip_frames=8,
            pca_batches=8,
            quantize_from=6,
            fit_vectors=400,
            validation_clips=1,
            validation_frames=16,
        ),
        train=TrainConfig(
            num_steps=12,
            lr=1e-3,
            warmup_steps=2,
            log_every=4,
            validate_every=0,
            precision="float32",
        ),
    )


def codec_conv_debug() -> CodecRun:
    """Return a run of seconds of what `codec_full` is made of: convolutions and an adversary."""
    return CodecRun(
        task=CodecTaskConfig(
            codec=CodecConfig(
                conv=ConvConfig(encoder_filters=4, decoder_filters=4),
                quantizer=QuantizerConfig(latent_width=16),
            ),
            objective=CodecObjectiveConfig(commitment=1.0, revive_every=4),
            adversary=AdversaryConfig(
                discriminator=DiscriminatorConfig(fft_sizes=(126, 335), width=4),
                start_step=12,
                lr=1e-3,
            ),
            batch_size=2,
            clip_frames=8,
            quantize_from=8,
            fit_vectors=400,
            validation_clips=1,
            validation_frames=16,
        ),
        train=TrainConfig(
            num_steps=24,
            lr=3e-3,
            schedule="exponential",
            decay_rate=0.99,
            warmup_steps=2,
            log_every=4,
            validate_every=0,
            precision="float32",
        ),
    )


def codec_full() -> CodecRun:
    """Return a run of the published codec (arXiv 2605.01790) from nothing, for large machines.

    Published, in the paper or in the released configuration: the transform, 64 plain Euclidean
    levels without prefix dropout, running averages of .99, 50 iterations of k-means, commitment
    weight 1, a discriminator of 128 filters and these STFT sizes, learning rates that decay
    exponentially, and, by the released file's name, 2,490,000 steps. Not stated anywhere, and so
    ours: the spectral terms, all weights and their balance (commitment is taken relative to the
    latents' energy), rates, betas, batch, crops, and when quantisation and the adversary begin.
    """
    return CodecRun(
        task=CodecTaskConfig(
            codec=CodecConfig(conv=ConvConfig(), quantizer=QuantizerConfig()),
            objective=CodecObjectiveConfig(commitment=1.0, full_depth=1.0, decay=0.99),
            adversary=AdversaryConfig(start_step=10_000, balance=True),
            batch_size=16,
            clip_frames=16,
            quantize_from=1000,
            fit_vectors=100_000,
            fit_iterations=50,
        ),
        train=TrainConfig(
            num_steps=2_490_000,
            lr=1e-4,
            beta1=0.8,
            beta2=0.99,
            weight_decay=0.01,
            schedule="exponential",
            decay_rate=0.999996,
            warmup_steps=1000,
            validate_every=10_000,
            log_every=100,
        ),
    )


def codec_nano() -> CodecRun:
    """Return the bundled model's run."""
    return CodecRun(
        task=CodecTaskConfig(
            codec=nano_codec(),
            objective=CodecObjectiveConfig(
                reconstruction=ReconstructionLossConfig(band_weights=(0.4, 0.4, 0.8, 0.0))
            ),
            quantize_from=700,
            fit_vectors=40_000,
            refit_vectors=120_000,
        ),
        train=TrainConfig(
            num_steps=10_000,
            lr=1.2e-3,
            beta2=0.99,
            weight_decay=0.01,
            warmup_steps=200,
            ema_decay=0.995,
            validate_every=1000,
        ),
    )


def codec_nano_decoder() -> CodecRun:
    """Return a run that goes on with the decoder of a trained codec, its codes kept."""
    run = codec_nano()
    return replace(
        run,
        task=replace(run.task, decoder_only=True, refit_vectors=0),
        train=replace(run.train, num_steps=5000, lr=6e-4, warmup_steps=50),
    )
