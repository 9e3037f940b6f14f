"""The codec's contract: waveform <-> codes, whatever the transform inside.

Shape letters, this file only: B batch, C channels, N samples, T frames, Q levels, D latent width,
G guide width.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from khala import checkpoint
from khala.codec.config import CodecConfig, ConvConfig
from khala.codec.conv import Conv, ConvDecoder, ConvEncoder, NoEncoder
from khala.codec.quantizer import ResidualQuantizer
from khala.codec.spectral import Guide, SpectralDecoder, SpectralEncoder, Stft, to_mid_side
from khala.errors import AudioError

__all__ = ["Codec"]

PIECE_FRAMES = 512
"""Most frames coded at once (24 s at the published rate): bounds memory for any length."""

DECODE_FRAMES = 128
"""The same for decoding without convolutions on a CPU: six seconds stay in a core's cache, and that
is a fifth faster than 24 although each piece decodes its neighbours' edges again."""

PIECE_BYTES = 256 << 20
"""Most bytes of the widest numbers of a piece: a large codec takes shorter ones."""


class Codec(nn.Module):
    """Waveform <-> codes: ``encode``, and ``decode`` of any prefix of levels.

    Frames are ``ceil(N / hop)``: the tail is zero-padded to a whole frame, never dropped. Long
    audio is coded in chunks with a halo of real context on both sides, wide enough that the
    result equals coding it whole.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        guide_width = None if config.guide is None else config.guide.key_width
        self.quantizer = ResidualQuantizer(config.quantizer, guide_width=guide_width)
        self.guide: Guide | None = None
        self.encoder: nn.Module
        self.decoder: nn.Module
        if config.conv is not None:
            bare = config.conv.encoder_filters is None
            self.encoder = NoEncoder() if bare else ConvEncoder(config, config.conv)
            self.decoder = ConvDecoder(config, config.conv)
        else:
            assert config.spectral is not None
            self.stft = Stft(config.spectral.n_fft, config.hop // config.spectral.patches)
            self.encoder = SpectralEncoder(config, config.spectral)
            self.decoder = SpectralDecoder(config, config.spectral)
            if config.guide is not None:
                self.guide = Guide(config, config.spectral, config.guide)

    @classmethod
    def from_pretrained(cls, path: str | Path, device: torch.device | str = "cpu") -> Self:
        """Load a codec from a model folder (its ``codec/``), or from that folder itself.

        Raises:
            CheckpointError: no such folder, or config and weights are damaged or disagree.
        """
        folder = checkpoint.resolve_part(path, "codec")
        codec = cls.without_weights(folder)
        codec.load_weights(folder, device=device)
        return codec

    @classmethod
    def without_weights(cls, folder: Path) -> Self:
        """Return the codec that a folder describes; a large one takes no memory yet."""
        config = checkpoint.load_config(folder, "codec", CodecConfig)
        if config.conv is None:  # its windows and filters are computed, and it is small
            return cls(config).eval()
        with torch.device("meta"):
            return cls(config).eval()

    def load_weights(self, folder: Path, *, device: torch.device | str = "cpu") -> None:
        """Read the weights, in float32: codes depend on every digit."""
        checkpoint.load_module(self, folder, device=device, dtype=torch.float32)
        self.to(device)

    def fold_decoder(self) -> None:
        """Fold the weight norm of the decoder's convolutions, for decoding and never training."""
        for module in self.decoder.modules():
            if isinstance(module, Conv):
                module.fold()

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> str:
        """Write the codec as a model folder, see `khala.checkpoint.stored`; return its digest."""
        tensors = checkpoint.stored(self.state_dict(), dtype)
        return checkpoint.save_model(folder, kind="codec", config=self.config, tensors=tensors)

    def codes_digest(self) -> str:
        """Return what identifies the codes this codec gives: a sha256 of all but its decoder.

        Raises:
            CheckpointError: it has no encoder and gives none.
        """
        if isinstance(self.encoder, NoEncoder):
            self.encoder()
        seen = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            if not name.startswith("decoder."):
                seen.update(name.encode())
                seen.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return seen.hexdigest()

    @property
    def halo_frames(self) -> int:
        """Frames of context on each side beyond which nothing is seen."""
        if self.config.conv is not None:
            return _conv_halo(self.config.conv, self.config.hop)
        spectral = self.config.spectral
        assert spectral is not None
        coarse = max(spectral.encoder_coarse_blocks, spectral.decoder_coarse_blocks)
        if self.config.guide is not None:
            coarse = max(coarse, self.config.guide.blocks)
        fine = max(spectral.encoder_fine_blocks, spectral.decoder_fine_blocks, 1)
        reach = -(-spectral.n_fft // (2 * self.config.hop))
        return coarse + -(-fine // spectral.patches) + 2 * reach

    @property
    def piece_frames(self) -> int:
        """Frames encoded at once where nobody says how many."""
        if self.config.conv is None:
            return PIECE_FRAMES
        widest = max(self.config.conv.encoder_filters or 0, self.config.conv.decoder_filters)
        fit = PIECE_BYTES // (4 * widest * self.config.hop)
        return min(PIECE_FRAMES, 1 << max(fit, 16).bit_length() - 1)

    @property
    def decode_frames(self) -> int:
        """Frames decoded at once where nobody says how many."""
        is_small = self.config.conv is None and next(self.parameters()).device.type == "cpu"
        return DECODE_FRAMES if is_small else self.piece_frames

    def latents(self, wave_BCN: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return latents_BTD, and the guide's output [B, T, G] if there is one.

        ``N`` must be a whole number of frames. This is the differentiable half of ``encode``.
        """
        if self.config.conv is not None:
            return self.encoder(wave_BCN), None
        spectrum = self.stft(to_mid_side(wave_BCN))
        return self.encoder(spectrum), None if self.guide is None else self.guide(spectrum)

    def synthesise(self, latents_BTD: Tensor) -> Tensor:
        """Return the waveform of latents: the differentiable half of ``decode``."""
        if self.config.conv is not None:
            wave: Tensor = self.decoder(latents_BTD)
            return wave
        return to_mid_side(self.stft.inverse(self.decoder(latents_BTD)))

    @torch.inference_mode()
    def encode(self, wave_BCN: Tensor, *, pad: bool = True, chunk_frames: int | None = 0) -> Tensor:
        """Return codes_BQT, int64, of a waveform in [-1, 1].

        Args:
            wave_BCN: float samples at the codec's rate.
            pad: complete the last frame with silence: ceil(N / hop) frames. ``False`` drops an
                incomplete last frame as the published code does: floor(N / hop) frames.
            chunk_frames: frames coded at once; 0: ``piece_frames``; ``None``: all of them.

        Raises:
            AudioError: wrong shape, no whole frame, or samples that are not finite.
            CheckpointError: this codec came without an encoder.
        """
        self._check(wave_BCN, pad)
        hop = self.config.hop
        missing = -wave_BCN.shape[-1] % hop if pad else 0
        if missing:
            wave_BCN = functional.pad(wave_BCN, (0, missing))
        num_frames = wave_BCN.shape[-1] // hop
        wave_BCN = wave_BCN.float()
        if self.config.conv is None:
            wave_BCN = wave_BCN[..., : num_frames * hop]
        parts = []
        for start, stop, low, high in self._chunks(num_frames, chunk_frames, self.piece_frames):
            # The published encoder still hears an incomplete last frame, though it gives no code.
            end = high * hop if high < num_frames else None
            latents, keys = self.latents(wave_BCN[..., low * hop : end])
            keep = slice(start - low, stop - low)
            guide = None if keys is None else keys[:, keep]
            parts.append(self.quantizer.encode(latents[:, keep], guide))
        return torch.cat(parts, dim=-1)

    @torch.inference_mode()
    def decode(self, codes_BQT: Tensor, *, chunk_frames: int | None = 0) -> Tensor:
        """Return wave_BCN, N = T * hop, from any prefix of the levels.

        Args:
            codes_BQT: the coarsest levels.
            chunk_frames: frames decoded at once; 0: ``decode_frames``; ``None``: all of them.

        Raises:
            TokenError: no level, too many levels, or a code outside its codebook.
        """
        latents = self.quantizer.decode(codes_BQT)
        hop, parts = self.config.hop, []
        chunks = self._chunks(latents.shape[1], chunk_frames, self.decode_frames)
        for start, stop, low, high in chunks:
            wave = self.synthesise(latents[:, low:high])
            parts.append(wave[..., (start - low) * hop : (stop - low) * hop])
        if not parts:
            return latents.new_zeros(codes_BQT.shape[0], self.config.channels, 0)
        return torch.cat(parts, dim=-1)

    def _chunks(
        self, num_frames: int, chunk: int | None, usual: int
    ) -> list[tuple[int, int, int, int]]:
        """Return (start, stop, low, high): frames to keep, and frames to look at for them."""
        chunk = max(num_frames, 1) if chunk is None else chunk or usual
        halo = self.halo_frames
        return [
            (
                start,
                min(start + chunk, num_frames),
                max(0, start - halo),
                min(start + chunk + halo, num_frames),
            )
            for start in range(0, num_frames, chunk)
        ]

    def _check(self, wave_BCN: Tensor, pad: bool) -> None:
        channels, hop = self.config.channels, self.config.hop
        if wave_BCN.ndim != 3 or wave_BCN.shape[1] != channels:
            raise AudioError(
                f"a waveform must have shape [batch, {channels}, samples], "
                f"not {tuple(wave_BCN.shape)}"
            )
        if wave_BCN.shape[-1] < (1 if pad else hop):
            raise AudioError(f"{wave_BCN.shape[-1]} samples are too few to encode")
        if not bool(torch.isfinite(wave_BCN).all()):
            raise AudioError("a waveform must be finite: it holds NaN or infinite samples")


def _conv_halo(conv: ConvConfig, hop: int) -> int:
    """Return the frames that one output can see on each side, through encoder or decoder."""
    units = 3 * (1 + 3 + 9)
    encoder, rate = 3, 1
    for stride in conv.encoder_strides:
        encoder += units * rate + 2 * stride * rate
        rate *= stride
    encoder += rate
    decoder, rate = 3 * hop, hop
    for stride in conv.decoder_strides:
        decoder += 2 * rate
        rate //= stride
        decoder += units * rate
    return -(-max(encoder, decoder + 3) // hop)
