"""The codec's contract, for both transforms."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from khala import checkpoint
from khala.codec import (
    Codec,
    CodecConfig,
    ConvConfig,
    EnvelopeConfig,
    GuideConfig,
    QuantizerConfig,
    SpectralConfig,
)
from khala.codec.envelope import EnvelopeGain
from khala.codec.fit import CodebookAverages, fit_quantizer, quantise
from khala.codec.objective import CodecObjective, CodecObjectiveConfig
from khala.codec.quantizer import ResidualQuantizer, nearest
from khala.errors import AudioError, CheckpointError, ConfigError, TokenError

CONV = CodecConfig(
    hop=64,
    conv=ConvConfig(
        encoder_filters=2, encoder_strides=(4, 4, 4), decoder_filters=2, decoder_strides=(4, 4, 4)
    ),
    quantizer=QuantizerConfig(num_levels=5, codebook_size=16, latent_width=6),
)
SPECTRAL = CodecConfig(
    hop=256,
    spectral=SpectralConfig(n_fft=256, fine_width=12, coarse_width=16),
    guide=GuideConfig(num_coefficients=5, num_mels=20, width=8, blocks=1),
    quantizer=QuantizerConfig(num_levels=5, codebook_size=16, latent_width=12, code_width=4),
)
ENVELOPE = replace(
    SPECTRAL,
    spectral=SpectralConfig(
        n_fft=256,
        fine_width=12,
        coarse_width=16,
        envelope=EnvelopeConfig(width=4, mid_bands=8, side_bands=3),
    ),
)
BOTH = pytest.mark.parametrize(
    "config", [CONV, SPECTRAL, ENVELOPE], ids=["conv", "spectral", "envelope"]
)


def noise(config: CodecConfig, frames: float, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(batch, 2, int(frames * config.hop), generator=generator)


@BOTH
def test_nothing_of_the_tail_is_dropped(config: CodecConfig) -> None:
    """A song's last note would lose up to a frame."""
    codec = Codec(config).eval()
    for frames, wanted in ((3.0, 3), (3.1, 4), (0.02, 1)):
        codes = codec.encode(noise(config, frames))
        assert codes.shape == (1, 5, wanted)
        assert codes.dtype == torch.int64
        assert codec.decode(codes).shape == (1, 2, wanted * config.hop)


@BOTH
def test_chunked_equals_whole(config: CodecConfig) -> None:
    """Long songs would click every few seconds, or depend on the memory of the computer."""
    codec = Codec(config).eval()
    wave = noise(config, 50.3)
    codes = codec.encode(wave, chunk_frames=None)
    assert torch.equal(codes, codec.encode(wave, chunk_frames=16))
    whole = codec.decode(codes, chunk_frames=None)
    torch.testing.assert_close(whole, codec.decode(codes, chunk_frames=7), atol=2e-5, rtol=1e-4)


@BOTH
def test_a_batch_equals_its_songs_alone(config: CodecConfig) -> None:
    """A song would depend on which other songs were encoded with it."""
    codec = Codec(config).eval()
    waves = noise(config, 6, batch=3)
    together = codec.encode(waves)
    for index in range(3):
        assert torch.equal(together[index], codec.encode(waves[index : index + 1])[0])


@BOTH
def test_save_and_load(config: CodecConfig, tmp_path: Path) -> None:
    """A saved codec must say the same; one flipped byte must be noticed, not played."""
    codec = Codec(config).eval()
    codec.save(tmp_path / "codec", dtype=torch.float32)
    loaded = Codec.from_pretrained(tmp_path)
    wave = noise(config, 4)
    assert torch.equal(codec.encode(wave), loaded.encode(wave))
    path = tmp_path / "codec" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Codec.from_pretrained(tmp_path)


@BOTH
def test_bad_input_is_refused(config: CodecConfig) -> None:
    """NaN, mono and impossible codes must be one clear error, not noise."""
    codec = Codec(config).eval()
    for wave in (
        torch.zeros(1, 1, 4096),
        torch.zeros(1, 2, 0),
        torch.full((1, 2, 4096), torch.nan),
    ):
        with pytest.raises(AudioError):
            codec.encode(wave)
    for codes in (
        torch.full((1, 5, 3), 16),
        torch.full((1, 5, 3), -1),
        torch.zeros(1, 6, 3).long(),
        torch.zeros(5, 3).long(),
        torch.zeros(1, 5, 3),
    ):
        with pytest.raises(TokenError):
            codec.decode(codes)


@BOTH
def test_codes_of_any_integers(config: CodecConfig) -> None:
    """Codes are stored in few bits, and must play as they were stored."""
    codec = Codec(config).eval()
    codes_BQT = torch.arange(15).reshape(1, 5, 3)
    for dtype in (torch.int16, torch.int32, torch.uint8):
        assert torch.equal(codec.decode(codes_BQT.to(dtype)), codec.decode(codes_BQT))


def test_configs_that_cannot_be_built() -> None:
    """A wrong hop or two transforms at once must fail before hours of training."""
    with pytest.raises(ConfigError, match="hop"):
        replace(CONV, hop=65)
    with pytest.raises(ConfigError, match=r"decoder_strides \(3, 4\) must be even"):
        replace(CONV, hop=12, conv=ConvConfig(encoder_strides=(2, 6), decoder_strides=(3, 4)))
    with pytest.raises(ConfigError, match="exactly one"):
        replace(CONV, spectral=SpectralConfig())
    with pytest.raises(ConfigError, match="code_width"):
        replace(SPECTRAL, quantizer=QuantizerConfig(latent_width=4, code_width=5))
    with pytest.raises(CheckpointError, match="unknown field 'hops'"):
        checkpoint.config_from_dict(CodecConfig, checkpoint.config_to_dict(CONV) | {"hops": 1})


def test_nearest_is_the_slow_obvious_one() -> None:
    """A code that is not the nearest is audible noise."""
    points, codes = torch.randn(1, 40, 5), torch.randn(16, 5)
    slow = torch.tensor(
        [min(range(16), key=lambda k: float((p - codes[k]).square().sum())) for p in points[0]]
    )
    assert torch.equal(nearest(points, codes)[0], slow)


def test_subspace_neighbours_are_neighbours_in_the_whole_space() -> None:
    """Small tables may not choose other codes than the full vectors they stand for."""
    quantizer = ResidualQuantizer(SPECTRAL.quantizer)
    fit_quantizer(quantizer, torch.randn(400, 12), None, iterations=2)
    latents = torch.randn(1, 30, 12)
    every = quantizer.vectors(torch.arange(16)[None], 0)[0]
    assert torch.equal(quantizer.encode(latents)[:, 0], nearest(latents, every))


@pytest.mark.parametrize("guided", [False, True])
def test_error_falls_with_every_level(guided: bool) -> None:
    """The quality dial would turn the wrong way."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2000, 12, generator=generator) * torch.linspace(2, 0.2, 12)
    guide = latents[:, :3] + 0.1 if guided else None
    quantizer = ResidualQuantizer(SPECTRAL.quantizer, guide_width=3 if guided else None)
    left = fit_quantizer(quantizer, latents, guide)
    assert all(after < before for before, after in zip([1.0, *left], left, strict=False))
    seen = quantise(quantizer, latents, guide)
    for level, codes in enumerate(seen.codes_QN):
        assert len(codes.unique()) == 16, f"level {level} does not use all its codes"
    decoded = quantizer.decode(seen.codes_QN[None])
    torch.testing.assert_close(decoded[0], seen.sums_QND[-1])


def test_dead_codes_revive() -> None:
    """Codes nobody uses are bits nobody hears."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(512, 12, generator=generator)
    quantizer = ResidualQuantizer(SPECTRAL.quantizer)
    fit_quantizer(quantizer, latents, None)
    quantizer.codebooks[0, :8] += 100.0
    averages = CodebookAverages(quantizer, decay=0.8)
    averages.restart(quantizer, len(latents))
    assert len(quantise(quantizer, latents, None).codes_QN[0].unique()) <= 8
    for step in range(60):
        averages.update(quantizer, quantise(quantizer, latents, None), None)
        if step % 20 == 19:
            averages.revive(quantizer)
    for _ in range(20):
        averages.update(quantizer, quantise(quantizer, latents, None), None)
    assert len(quantise(quantizer, latents, None).codes_QN[0].unique()) >= 14


@BOTH
def test_training_reaches_every_part(config: CodecConfig) -> None:
    """A part without a gradient stays noise; a codebook that does not follow stays wrong."""
    torch.manual_seed(0)
    objective = CodecObjective(
        replace(config, sample_rate_hz=44_100),
        CodecObjectiveConfig(full_depth=0.5, revive_every=2),
    )
    wave = noise(config, 4096 / config.hop * 2, batch=4)
    vocals = wave.mean(1) if config.guide is not None else None
    latents, guide = objective.codec.latents(wave)
    objective.start_quantizer(
        latents.detach().flatten(0, 1),
        None if guide is None else guide.detach().flatten(0, 1),
        batch=latents.shape[0] * latents.shape[1],
    )
    before = objective.codec.quantizer.codebooks.clone()
    terms = objective(wave, vocals, torch.Generator().manual_seed(0))
    terms["loss"].backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().sum()) > 0, name
    objective.after_update(1)
    changed = (objective.codec.quantizer.codebooks != before).flatten(1).any(1)
    assert bool(changed.all())


def test_codebooks_follow_every_part_of_a_step() -> None:
    """With gradients summed over parts, the codebooks must not follow the last part alone."""
    wave, vocals = noise(SPECTRAL, 32, batch=4), torch.zeros(4, 32 * SPECTRAL.hop)
    books = []
    for parts in ([slice(0, 4)], [slice(0, 2), slice(2, 4)]):
        torch.manual_seed(0)
        objective = CodecObjective(
            replace(SPECTRAL, sample_rate_hz=44_100), CodecObjectiveConfig(full_depth=1.0)
        )
        latents, guide = objective.codec.latents(wave)
        assert guide is not None
        objective.start_quantizer(
            latents.detach().flatten(0, 1), guide.detach().flatten(0, 1), batch=128
        )
        for part in parts:
            objective(wave[part], vocals[part], torch.Generator().manual_seed(0))
        objective.after_update(1)
        books.append(objective.codec.quantizer.codebooks.clone())
    torch.testing.assert_close(books[0], books[1])


@torch.no_grad()
def test_foreign_levels_keep_the_first_ones() -> None:
    """The decoder must learn from what the first levels say, not from nothing at all."""
    torch.manual_seed(0)
    objective = CodecObjective(SPECTRAL, CodecObjectiveConfig(foreign=1.0))
    latents_ND = torch.randn(24, 12)
    fit_quantizer(objective.codec.quantizer, latents_ND, torch.randn(24, 10))
    seen = quantise(objective.codec.quantizer, latents_ND, torch.randn(24, 10))
    whole_BTD = seen.sums_QND[-1].view(2, 12, 12)
    mixed_BTD, phased_B = objective._with_foreign(whole_BTD, seen, torch.Generator().manual_seed(0))
    assert not bool(phased_B.any())
    assert not torch.equal(mixed_BTD, whole_BTD)
    torch.testing.assert_close(mixed_BTD.mean(1), whole_BTD.mean(1))  # moved in time, not lost


@torch.no_grad()
def test_the_gain_brings_any_phases_to_the_envelope() -> None:
    """Super-resolution guesses phases of its own; how loud each band is must not suffer."""
    assert ENVELOPE.spectral is not None
    assert ENVELOPE.spectral.envelope is not None
    gain = EnvelopeGain(ENVELOPE, ENVELOPE.spectral, ENVELOPE.spectral.envelope)
    gain.trust.bias.fill_(20.0)
    magnitudes = torch.rand(2, 1, 2, 8, 129, generator=torch.Generator().manual_seed(0))
    wanted_BCLF, other_BCLF = 0.1 + 0.2 * magnitudes[0], 0.01 + 0.02 * magnitudes[1]
    bands = gain.bands_of.to_frames(*gain.bands_of(wanted_BCLF))
    gain.readout.weight.zero_()
    gain.readout.bias.copy_(bands.mean((0, 1)))
    factors = gain(other_BCLF, torch.zeros(1, 2, 12), torch.zeros(1, 8, 12))
    after = gain.bands_of.to_frames(*gain.bands_of(other_BCLF * factors))
    before = gain.bands_of.to_frames(*gain.bands_of(other_BCLF))
    assert float((after - bands).abs().mean()) < 0.15 * float((before - bands).abs().mean())
    gain.trust.bias.fill_(-20.0)
    untouched = gain(other_BCLF, torch.zeros(1, 2, 12), torch.zeros(1, 8, 12))
    torch.testing.assert_close(untouched, torch.ones_like(untouched))


@torch.no_grad()
def test_the_envelope_starts_with_its_share_of_the_variance() -> None:
    """Too small, and the first levels say nothing of the words; too large, and none says a phase.

    With no network's part yet, the first latents are the log spectrum and the others are not.
    """
    objective = CodecObjective(ENVELOPE, CodecObjectiveConfig())
    swell = torch.linspace(0.05, 1.0, 40 * ENVELOPE.hop)
    waves = [noise(ENVELOPE, 40, batch=4) * swell, noise(ENVELOPE, 40, batch=4) * swell.flip(0)]
    objective.start_linear(waves)
    encoder = objective.codec.encoder
    torch.nn.init.zeros_(encoder.leave.weight)
    latents_ND = torch.cat([objective.codec.latents(wave)[0].flatten(0, 1) for wave in waves])
    envelope, others = latents_ND[:, :4], latents_ND[:, 4:]
    share = float(envelope.var(0).sum() / others.square().mean(0).sum())
    assert share == pytest.approx(1.5, rel=0.1)
    louder_ND = objective.codec.latents(2 * waves[0])[0].flatten(0, 1)
    moved_D = (louder_ND - latents_ND[: len(louder_ND)]).mean(0)
    assert moved_D[:4].norm() > 10 * moved_D[4:].norm()
