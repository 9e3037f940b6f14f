"""One training step of the codec: quantise, decode a random prefix of levels, judge.

Shape letters, this file only: B batch, C channels, N samples, T frames, Q levels, D latent width,
G guide width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from khala.codec import ranks
from khala.codec.codec import Codec
from khala.codec.config import CodecConfig
from khala.codec.envelope import start_envelope
from khala.codec.fit import CodebookAverages, Quantised, commitment, fit_quantizer, quantise
from khala.codec.losses import (
    Parts,
    ReconstructionLoss,
    ReconstructionLossConfig,
    weighted_sum,
)
from khala.codec.spectral import (
    SKIP_GAIN,
    SpectralDecoder,
    SpectralEncoder,
    start_from_pca,
    to_mid_side,
)
from khala.codec.voice import voice_cepstra
from khala.errors import ConfigError

__all__ = ["CodecObjective", "CodecObjectiveConfig", "Judge"]

Judge = Callable[[Tensor, Tensor, Parts, Tensor | None], tuple[Tensor, dict[str, Tensor]]]
"""made_BCN, wave_BCN, terms of the reconstruction, phased_B -> the loss and more terms to log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecObjectiveConfig:
    """How the codec learns."""

    reconstruction: ReconstructionLossConfig = field(default_factory=ReconstructionLossConfig)
    """The spectral terms."""

    commitment: float = 0.5
    """Weight of the commitment of the latents to every level's codes."""

    guide: float = 1.0
    """Weight of the squared error of the guide against the singer's cepstrum."""

    full_depth: float = 0.5
    """Share of examples decoded from all levels; the others from a random prefix."""

    foreign: float = 0.0
    """Share of examples whose fine levels are those of another moment, judged by magnitudes alone.

    Fine levels that super-resolution draws have the right sound and other phases than the first
    levels were made with: so the decoder learns to let the first levels say how loud each band is.
    """

    decay: float = 0.99
    """Decay of the running averages that make the codebooks."""

    revive_every: int = 50
    """Steps between revivals of dead codes."""

    def __post_init__(self) -> None:
        for name in ("full_depth", "foreign"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must lie in 0..1, not {getattr(self, name)}")


class CodecObjective(nn.Module):
    """A codec with what it needs to be trained: losses and codebook averages.

    Until :meth:`start_quantizer` the latents go to the decoder unquantised.
    """

    started: Tensor

    def __init__(self, codec_config: CodecConfig, config: CodecObjectiveConfig) -> None:
        super().__init__()
        self.config = config
        self.codec = Codec(codec_config)
        self.averages = CodebookAverages(self.codec.quantizer, decay=config.decay)
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.reconstruction = ReconstructionLoss(config.reconstruction, codec_config.sample_rate_hz)
        self._seen: list[tuple[Quantised, Tensor | None]] = []

    def forward(
        self,
        wave_BCN: Tensor,
        vocals_BN: Tensor | None,
        generator: torch.Generator,
        drawn_BQT: Tensor | None = None,
        judge: Judge | None = None,
    ) -> dict[str, Tensor]:
        """Return "loss" and its terms for waveforms of a whole number of frames.

        Args:
            wave_BCN: the mix.
            vocals_BN: the singer's stem, for a guided codec.
            generator: chooses prefix depths and the second STFT resolution.
            drawn_BQT: codes to be decoded instead of the wave's own, judged by magnitudes alone;
                -1 throughout an example leaves it its own.
            judge: makes the loss of what was decoded; None: the reconstruction's weighted sum.
        """
        latents_BTD, guide_BTG = self.codec.latents(wave_BCN)
        latents_BTD = latents_BTD.float()
        terms: dict[str, Tensor] = {}
        extra = latents_BTD.new_zeros(())
        if guide_BTG is not None:
            terms["guide"] = self._guide_term(guide_BTG.float(), vocals_BN)
            extra = extra + self.config.guide * terms["guide"]
        decoded_BTD, phased_B = latents_BTD, None
        if bool(self.started):
            guide_NG = None if guide_BTG is None else guide_BTG.detach().float().flatten(0, 1)
            with torch.autocast(latents_BTD.device.type, enabled=False):
                # Distances in bfloat16 would choose other codes than the finished codec does.
                seen = quantise(self.codec.quantizer, latents_BTD.detach().flatten(0, 1), guide_NG)
            self._seen.append((seen, guide_NG))
            terms["commitment"] = commitment(latents_BTD.flatten(0, 1), seen)
            extra = extra + self.config.commitment * terms["commitment"]
            quantised_BTD = self._prefix(seen, latents_BTD.shape, generator)
            if self.config.foreign:
                quantised_BTD, phased_B = self._with_foreign(quantised_BTD, seen, generator)
            if drawn_BQT is not None:
                quantised_BTD, phased_B = self._with_drawn(quantised_BTD, phased_B, drawn_BQT)
            decoded_BTD = latents_BTD + (quantised_BTD - latents_BTD).detach()
        made_BCN = self.codec.synthesise(decoded_BTD)
        other = int(
            torch.randint(1, len(self.config.reconstruction.fft_sizes), (), generator=generator)
        )
        made_BCN = made_BCN.float()
        parts = self.reconstruction.parts(made_BCN, wave_BCN, other_fft=other, phased_B=phased_B)
        terms |= self.reconstruction.shown(parts)
        if judge is None:
            loss = weighted_sum(parts)
        else:
            loss, more = judge(made_BCN, wave_BCN, parts, phased_B)
            terms |= more
        terms["loss"] = loss + extra
        return terms

    def _guide_term(self, guide_BTG: Tensor, vocals_BN: Tensor | None) -> Tensor:
        config = self.codec.config
        assert config.guide is not None
        if vocals_BN is None:
            raise ConfigError("a guided codec needs vocal stems to train on")
        target_BTG = voice_cepstra(vocals_BN, config, config.guide)
        return functional.mse_loss(guide_BTG, target_BTG)

    def _prefix(self, seen: Quantised, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Return the quantised latents, each example at its own depth."""
        batch, frames, width = shape
        levels = self.codec.config.quantizer.num_levels
        draws = torch.rand(2, batch, generator=generator)
        depths_B = torch.where(
            draws[0] < self.config.full_depth,
            levels - 1,
            # log-uniform: shallow prefixes are the ones a listener hears the most loss in
            (levels ** draws[1]).long().clamp_max(levels) - 1,
        )
        sums = seen.sums_QND.view(levels, batch, frames, width)
        return sums[depths_B.to(sums.device), torch.arange(batch, device=sums.device)]

    def _with_foreign(
        self, quantised_BTD: Tensor, seen: Quantised, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Put other moments' fine levels into some examples; also tell which are untouched."""
        batch, frames, width = quantised_BTD.shape
        levels = self.codec.config.quantizer.num_levels
        sums_QBTD = seen.sums_QND.view(levels, batch, frames, width)
        chosen_B = torch.rand(batch, generator=generator) < self.config.foreign
        mixed_BTD = quantised_BTD.clone()
        for item in chosen_B.nonzero()[:, 0].tolist():
            kept = int(torch.randint(2, max(3, levels // 4), (), generator=generator)) - 1
            shift = int(torch.randint(1, max(2, frames), (), generator=generator))
            fine_TD = sums_QBTD[-1, item] - sums_QBTD[kept, item]
            mixed_BTD[item] = sums_QBTD[kept, item] + fine_TD.roll(shift, dims=0)
        return mixed_BTD, ~chosen_B.to(quantised_BTD.device)

    @torch.no_grad()
    def _with_drawn(
        self, quantised_BTD: Tensor, phased_B: Tensor | None, drawn_BQT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put drawn codes' latents into the examples that have them; also tell which have none."""
        own_B = (drawn_BQT < 0).flatten(1).any(1)
        drawn_BTD = self.codec.quantizer.decode(drawn_BQT.clamp_min(0)).to(quantised_BTD)
        phased_B = own_B if phased_B is None else own_B & phased_B
        return torch.where(own_B[:, None, None], quantised_BTD, drawn_BTD), phased_B

    @torch.no_grad()
    def start_linear(self, waves: Iterable[Tensor]) -> None:
        """Start the spectral transform's linear maps from the principal components of some audio.

        Does nothing for the published transform.

        Args:
            waves: batches [B, C, N] of training audio.
        """
        encoder, decoder = self.codec.encoder, self.codec.decoder
        if not isinstance(encoder, SpectralEncoder) or not isinstance(decoder, SpectralDecoder):
            return
        moment_DD, count = torch.zeros(()), 0
        bands_moment, bands_sum = torch.zeros(()), torch.zeros(())
        for wave_BCN in waves:
            spectrum = self.codec.stft(to_mid_side(wave_BCN))
            low_ND = encoder.low(spectrum).flatten(0, 1)
            moment_DD, count = moment_DD + low_ND.T @ low_ND, count + len(low_ND)
            if encoder.envelope is not None:
                bands_ND = encoder.envelope.bands(spectrum.abs()).flatten(0, 1)
                bands_moment = bands_moment + bands_ND.T @ bands_ND
                bands_sum = bands_sum + bands_ND.sum(0)
        hz_per_bin = self.codec.config.sample_rate_hz / encoder.spectral.n_fft
        start_from_pca(encoder, decoder, moment_DD.double() / count, hz_per_bin)
        if encoder.envelope is not None:
            others = encoder.skip.weight.shape[0] - encoder.envelope.config.width
            assert decoder.gain is not None
            start_envelope(
                encoder.envelope,
                decoder.gain,
                bands_sum / count,
                bands_moment / count,
                others,
                scale=SKIP_GAIN,
            )

    @torch.no_grad()
    def start_quantizer(
        self, latents_ND: Tensor, guide_NG: Tensor | None, *, batch: int, iterations: int = 8
    ) -> None:
        """Fit the codebooks to latents of the data and quantise from now on.

        With several processes the first one fits, to its own latents, and the others take over.

        Args:
            latents_ND, guide_NG: outputs of the encoder and the guide on training data.
            batch: vectors per training step, of all processes, for the running averages.
            iterations: Lloyd's, for every level.
        """
        quantizer = self.codec.quantizer
        if ranks.is_first():
            fit_quantizer(quantizer, latents_ND, guide_NG, iterations=iterations)
        ranks.copy_first(quantizer.buffers())
        self.averages.restart(quantizer, batch)
        self.started.fill_(True)

    def after_update(self, step: int, *, keep_codes: bool = False) -> None:
        """Move the codebooks toward what chose them in the forward passes since the last update.

        Args:
            step: revivals of dead codes go by it.
            keep_codes: the codebooks stay as they are.
        """
        if keep_codes or not self._seen:
            self.forget()
            return
        passes = [seen for seen, _ in self._seen]
        guides = [guide_NG for _, guide_NG in self._seen if guide_NG is not None]
        together = Quantised(
            codes_QN=torch.cat([seen.codes_QN for seen in passes], dim=1),
            coordinates_QNW=torch.cat([seen.coordinates_QNW for seen in passes], dim=1),
            sums_QND=passes[-1].sums_QND,
        )
        self.averages.update(self.codec.quantizer, together, torch.cat(guides) if guides else None)
        if step % self.config.revive_every == 0:
            self.averages.revive(self.codec.quantizer)
        self.forget()

    def forget(self) -> None:
        """Drop what chose codes since the last update."""
        self._seen.clear()
