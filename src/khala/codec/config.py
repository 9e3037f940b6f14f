"""What a codec is made of: sizes that decide the contract, and one of two transforms."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from khala.errors import ConfigError

__all__ = [
    "CodecConfig",
    "ConvConfig",
    "EnvelopeConfig",
    "GuideConfig",
    "QuantizerConfig",
    "SpectralConfig",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvConfig:
    """The published transform: strided convolutions on the waveform with Snake activations."""

    encoder_filters: int | None = 128
    """Channels after the first convolution; doubled at every stride. ``None``: there is no encoder,
    so codes can be played and nothing can be encoded."""

    encoder_strides: tuple[int, ...] = (4, 8, 8, 8)
    """Down-sampling factors, even; their product is the hop. Empty without an encoder."""

    decoder_filters: int = 192
    """Channels before the last convolution; doubled at every stride, counted from the end."""

    decoder_strides: tuple[int, ...] = (8, 8, 8, 4)
    """Up-sampling factors, even; their product is the hop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvelopeConfig:
    """Latents of their own for how loud each band is, so that the first levels say that.

    A residual quantiser codes what varies most. Left alone it spends its first levels on the
    phases of the bass; with the log spectrum among the latents, and large enough there, it begins
    with what a listener, or a model that must guess the rest, needs first.
    """

    width: int = 64
    """Latents that hold it: principal components of a frame's log mel bands."""

    mid_bands: int = 48
    """Mel bands of the mid channel, for every STFT column of a frame."""

    side_bands: int = 16
    """Mel bands of the side channel, for every second column."""

    top_hz: float = 16_000.0
    """Upper end of the bands."""

    share: float = 1.5
    """Variance of these latents at the start, all together, relative to that of all the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectralConfig:
    """The cheap transform: a mid/side STFT, linear layers and convolutions over frames."""

    n_fft: int = 2048
    """STFT window in samples."""

    patches: int = 4
    """STFT columns per codec frame; the STFT hop is the codec's hop divided by this."""

    compression: float = 0.6
    """Magnitudes are raised to this power before and after the network; phases are kept."""

    fine_width: int = 192
    """Features of one STFT column."""

    coarse_width: int = 256
    """Features of one codec frame."""

    encoder_fine_blocks: int = 1
    """Residual blocks at the STFT rate in the encoder."""

    encoder_coarse_blocks: int = 2
    """Residual blocks at the frame rate in the encoder."""

    decoder_coarse_blocks: int = 2
    """Residual blocks at the frame rate in the decoder."""

    decoder_fine_blocks: int = 3
    """Residual blocks at the STFT rate in the decoder."""

    complex_top_hz: float = 8000.0
    """The encoder sees phases below this, and log magnitudes everywhere."""

    skip_top_hz: tuple[float, float] = (8000.0, 4000.0)
    """Mid and side below these also go to the latents and back by one linear map each way.

    Started from PCA, it codes the waveform from the first step; without it a network spends
    hundreds of steps on a constant output before it finds phases.
    """

    skip_emphasis: float = 0.45
    """PCA sees a bin of f Hz times (f / 500) to this power between 500 and 3000 Hz.

    Without it the latents are spent on the bass, and a voice's harmonics get none.
    """

    envelope: EnvelopeConfig | None = None
    """Gives the log spectrum latents of its own; ``None``: what the network makes of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuideConfig:
    """Level 0 guided toward the voice: its code is chosen by what the singer's spectrum is.

    A small network predicts the singer's cepstrum from the mix; level 0 takes the nearest code in
    that space, and its vector is the mean latent of the frames that chose it. The following levels
    quantise what is left, so it stays one residual hierarchy with one decoder.
    """

    num_coefficients: int = 20
    """Cepstral coefficients predicted for each sub-frame."""

    sub_frames: int = 2
    """Cepstra per codec frame."""

    num_mels: int = 80
    """Mel bands of the mix that the network sees, per STFT column."""

    width: int = 128
    """Features inside the network."""

    blocks: int = 3
    """Residual blocks at the frame rate."""

    @property
    def key_width(self) -> int:
        """Numbers per frame in which level 0 is chosen."""
        return self.num_coefficients * self.sub_frames


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerConfig:
    """The residual vector quantiser."""

    num_levels: int = 64
    """Residual levels; level 0 is the coarsest."""

    codebook_size: int = 1024
    """Codes per level."""

    latent_width: int = 128
    """Width of the vectors that are quantised."""

    code_width: int | None = None
    """Width of each level's codebook; ``None``: the latent's width, as published.

    When smaller, level ``q`` quantises the residual inside its own subspace, spanned by the
    orthonormal columns of a basis found by PCA of the residual. Nearest neighbours there are
    nearest neighbours in the whole space, tables are ``latent_width / code_width`` times smaller.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecConfig:
    """A waveform codec: exactly one of ``conv`` and ``spectral`` is given."""

    sample_rate_hz: int = 44_100
    """Samples per second and channel."""

    channels: int = 2
    """Audio channels."""

    hop: int = 2048
    """Samples per frame."""

    quantizer: QuantizerConfig = QuantizerConfig()
    """The residual quantiser."""

    conv: ConvConfig | None = None
    """The published transform."""

    spectral: SpectralConfig | None = None
    """The cheap transform."""

    guide: GuideConfig | None = None
    """Guides level 0 toward the voice; only with ``spectral``."""

    def __post_init__(self) -> None:
        if (self.conv is None) == (self.spectral is None):
            raise ConfigError("a CodecConfig needs exactly one of conv and spectral")
        sizes = (self.sample_rate_hz, self.channels, self.hop, self.quantizer.num_levels)
        if min(*sizes, self.quantizer.codebook_size, self.quantizer.latent_width) < 1:
            raise ConfigError(f"every size of a CodecConfig must be positive: {self}")
        width = self.quantizer.code_width
        if width is not None and not 1 <= width <= self.quantizer.latent_width:
            raise ConfigError(
                f"code_width must lie in 1..{self.quantizer.latent_width} or be None, not {width}"
            )
        if self.conv is not None:
            self._check_strides(self.conv)
        if self.spectral is not None:
            self._check_spectral(self.spectral)
        if self.guide is not None and self.spectral is None:
            raise ConfigError("guide needs the spectral transform")

    def _check_strides(self, conv: ConvConfig) -> None:
        if (conv.encoder_filters is None) != (not conv.encoder_strides):
            raise ConfigError(
                f"encoder_filters {conv.encoder_filters} and encoder_strides "
                f"{conv.encoder_strides}: a codec has both, or None and no strides"
            )
        for name, strides in (
            ("encoder_strides", conv.encoder_strides),
            ("decoder_strides", conv.decoder_strides),
        ):
            if name == "encoder_strides" and not strides:
                continue
            product = 1
            for stride in strides:
                if stride < 2 or stride % 2:
                    # a kernel of twice an odd stride has no middle: samples would be missing
                    raise ConfigError(f"{name} {strides} must be even numbers")
                product *= stride
            if product != self.hop:
                raise ConfigError(f"{name} {strides} multiply to {product}, not the hop {self.hop}")

    def _check_spectral(self, spectral: SpectralConfig) -> None:
        if self.hop % spectral.patches:
            raise ConfigError(f"hop {self.hop} is not a multiple of patches {spectral.patches}")
        column = self.hop // spectral.patches
        if spectral.n_fft < 2 * column or (spectral.n_fft - column) % 2:
            raise ConfigError(
                f"n_fft must be at least {2 * column}, with n_fft - {column} even: {spectral.n_fft}"
            )
        if spectral.envelope is not None:
            self._check_envelope(spectral, spectral.envelope)
        if self.channels != 2:
            raise ConfigError("the spectral transform is mid/side: channels must be 2")

    def _check_envelope(self, spectral: SpectralConfig, envelope: EnvelopeConfig) -> None:
        most = self.quantizer.latent_width - 1
        if not 1 <= envelope.width <= most:
            raise ConfigError(f"envelope.width must lie in 1..{most}, not {envelope.width}")
        if spectral.patches % 2 or min(envelope.mid_bands, envelope.side_bands) < 1:
            raise ConfigError("an envelope needs bands of mid and side and an even patches")
        if not envelope.share > 0 or not 100 < envelope.top_hz <= self.sample_rate_hz / 2:
            raise ConfigError(f"share or top_hz of an envelope make no sense: {envelope}")

    @property
    def frame_rate_hz(self) -> Fraction:
        """Frames per second, exactly."""
        return Fraction(self.sample_rate_hz, self.hop)

    def num_frames(self, num_samples: int) -> int:
        """Frames that cover ``num_samples``: nothing of the tail is dropped."""
        return -(-num_samples // self.hop)
