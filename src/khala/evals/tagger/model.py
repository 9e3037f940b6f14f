"""A small network that hears what a song is made of: its instruments, its style, and a singer.

Shape letters, this room: B batch, C channels, N samples, M mel bands, T mel frames, D width of the
embedding, I instruments, Y styles, W windows of a song.

It is a measuring instrument, trained on the demo corpus's own ground truth and never on anything
that has been through our codec, so it cannot learn to forgive what the codec does to an instrument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from khala import checkpoint
from khala.audio import log_mel
from khala.errors import AudioError, ConfigError
from khala.evals.distances import SAMPLE_RATE_HZ, Wave

Floats = npt.NDArray[np.float32]

HOP = 1024
FRAME_S = HOP / SAMPLE_RATE_HZ
"""Time between two mel frames: 23.2 ms."""

FLOOR = 1e-3
"""Least magnitude of a mel band, whose logarithm stands for nothing at all."""

SILENT = 1e-4
"""A window without a sample above -80 dBFS: nothing plays in it, whatever the network says."""

MOST_DEVIATIONS = 4.0
"""An empty band is unlike music, but not without bounds: a logarithm's floor is arbitrary."""

WINDOWS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TaggerConfig:
    """What the network looks like and what it can name."""

    instruments: tuple[str, ...]
    """Names of the instruments it hears, in order."""

    styles: tuple[str, ...]
    """Names of the styles it tells apart, in order."""

    left_out: tuple[str, ...] = ()
    """Instruments of the corpus that were too rare to be learned."""

    num_mels: int = 96
    """Mel bands between 30 Hz and 16 kHz."""

    widths: tuple[int, ...] = (24, 48, 96, 128)
    """Channels of the stem and of each block; each halves time and frequency."""

    embedding: int = 64
    """Width of what a song is compared by."""

    window_s: float = 10.0
    """A song is heard in windows of this length."""

    dropout: float = 0.1
    """Share of pooled activations dropped in training."""

    def __post_init__(self) -> None:
        for names in (self.instruments, self.styles):
            if not names or len(set(names)) != len(names):
                raise ConfigError("a tagger needs instruments and styles, each named once")
        if not self.widths or min(self.num_mels, self.embedding, *self.widths) < 1:
            raise ConfigError(f"sizes of a tagger must be positive: {self}")
        if not (0.0 <= self.dropout < 1.0 and self.window_s >= 1.0):
            raise ConfigError(f"dropout must be in [0, 1), windows at least a second: {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeardTags:
    """What one song is made of, as far as the tagger can tell."""

    instruments: tuple[str, ...]
    """Those likelier than their thresholds."""

    style: str
    """The likeliest one; empty where nothing sounds."""

    sings: bool
    """Somebody sings."""

    chances_I: Floats
    """How likely each instrument is."""

    sings_chance: float
    """How likely it is that somebody sings."""


class Block(nn.Module):
    """Residual block of two 3 x 3 convolutions; the first halves time and frequency."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(width_in, width, 3, stride=2, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(width)
        self.mix = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(width_in, width, 1, stride=2, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return [B, width, ceil(T / 2), ceil(M / 2)] of [B, width_in, T, M]."""
        inner = functional.gelu(self.norm_1(self.halve(hidden)))
        return functional.gelu(self.shortcut(hidden) + self.norm_2(self.mix(inner)))


class Tagger(nn.Module):
    """Log-mel frames to one embedding, and from it to instruments, style and singing."""

    mean_M: Tensor
    deviation_M: Tensor
    thresholds_I: Tensor

    def __init__(self, config: TaggerConfig) -> None:
        super().__init__()
        self.config = config
        num_instruments, num_styles = len(config.instruments), len(config.styles)
        self.register_buffer("mean_M", torch.zeros(config.num_mels))
        self.register_buffer("deviation_M", torch.ones(config.num_mels))
        self.register_buffer("thresholds_I", torch.full((num_instruments,), 0.5))
        self.stem = nn.Conv2d(1, config.widths[0], 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(config.widths[0])
        pairs = zip(config.widths, config.widths[1:], strict=False)
        self.blocks = nn.ModuleList(Block(width_in, width) for width_in, width in pairs)
        rows = math.ceil(config.num_mels / 2 ** len(config.widths))
        self.dropout = nn.Dropout(config.dropout)
        self.embedding = nn.Linear(2 * rows * config.widths[-1], config.embedding)
        self.head = nn.Linear(config.embedding, num_instruments + num_styles + 1)

    @property
    def name(self) -> str:
        """What its embedding is called in tables."""
        return "tagger"

    def forward(self, features_BTM: Tensor) -> Tensor:
        """Return one embedding [B, D] a window; its mean level makes no difference."""
        level_B11 = features_BTM.mean(dim=(1, 2), keepdim=True)
        scaled = (features_BTM - level_B11 - self.mean_M) / self.deviation_M
        scaled = scaled.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)
        hidden = functional.gelu(self.norm(self.stem(scaled[:, None])))
        for block in self.blocks:
            hidden = block(hidden)
        rows_BKT = hidden.float().transpose(2, 3).flatten(1, 2)
        deviation_BK = (rows_BKT.var(dim=2, correction=0) + 1e-5).sqrt()
        pooled = torch.cat([rows_BKT.mean(dim=2), deviation_BK], dim=1)
        embedding_BD: Tensor = self.embedding(self.dropout(pooled))
        return embedding_BD

    def tell(self, embedding_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of instruments [B, I], styles [B, Y] and of somebody singing [B]."""
        sizes = (len(self.config.instruments), len(self.config.styles), 1)
        instruments_BI, styles_BY, sings_B1 = self.head(embedding_BD).float().split(sizes, dim=1)
        return instruments_BI, styles_BY, sings_B1[:, 0]

    def embed(self, wave_CN: Wave) -> Floats:
        """Return the embedding [D] of a 44.1 kHz song: the mean over its windows.

        Raises:
            AudioError: the wave holds no sample.
        """
        embeddings_WD, _ = self._windows(wave_CN)
        mean_D: Floats = embeddings_WD.mean(dim=0).numpy()
        return mean_D

    @torch.inference_mode()
    def hear(self, wave_CN: Wave) -> HeardTags:
        """Return what a 44.1 kHz song, mono or stereo and of any length, is made of.

        An instrument may rest: it is as likely as in the half of the windows where it is likeliest.
        Windows without sound tell nothing.

        Raises:
            AudioError: the wave holds no sample.
        """
        embeddings_WD, sounds_W = self._windows(wave_CN)
        if not bool(sounds_W.any()):
            nothing_I = np.zeros(len(self.config.instruments), dtype=np.float32)
            return HeardTags(
                instruments=(), style="", sings=False, chances_I=nothing_I, sings_chance=0.0
            )
        instruments_WI, styles_WY, sings_W = self.tell(embeddings_WD[sounds_W])
        chances_I = _likeliest_half(instruments_WI.sigmoid())
        sings_chance = float(_likeliest_half(sings_W[:, None].sigmoid()))
        style = int(styles_WY.log_softmax(dim=1).mean(dim=0).argmax())
        names = zip(self.config.instruments, (chances_I > self.thresholds_I).tolist(), strict=True)
        return HeardTags(
            instruments=tuple(name for name, is_heard in names if is_heard),
            style=self.config.styles[style],
            sings=sings_chance > 0.5,
            chances_I=chances_I.numpy(),
            sings_chance=sings_chance,
        )

    @torch.inference_mode()
    def _windows(self, wave_CN: Wave) -> tuple[Tensor, Tensor]:
        """Return an embedding [W, D] of every window, and in which of them anything sounds [W].

        Windows are as long as in training and cover the song, evenly laid; a few at a time.
        """
        length = round(self.config.window_s * SAMPLE_RATE_HZ)
        num_samples = wave_CN.shape[1]
        if num_samples == 0:
            raise AudioError("a wave without a sample cannot be heard")
        num_windows = max(1, math.ceil(num_samples / length))
        starts_W = np.linspace(0, max(0, num_samples - length), num_windows).round().astype(int)
        was_training = self.training
        self.eval()
        embeddings, sounds = [], []
        for first in range(0, num_windows, WINDOWS_AT_ONCE):
            starts = starts_W[first : first + WINDOWS_AT_ONCE].tolist()
            waves = [wave_CN[:, start : start + length] for start in starts]
            spectra = [features(each_CN, num_mels=self.config.num_mels) for each_CN in waves]
            embeddings.append(self(torch.from_numpy(np.stack(spectra))))
            sounds += [bool(np.abs(each_CN).max() > SILENT) for each_CN in waves]
        self.train(was_training)
        return torch.cat(embeddings), torch.tensor(sounds)

    def save(self, folder: Path) -> str:
        """Write config, weights and thresholds as a model folder; return its digest."""
        return checkpoint.save_model(
            folder, kind="tagger", config=self.config, tensors=self.state_dict()
        )

    @classmethod
    def from_pretrained(cls, folder: Path) -> Tagger:
        """Read a tagger that `save` wrote.

        Raises:
            CheckpointError: a file is missing, damaged, or of another kind of model.
        """
        model = cls(checkpoint.load_config(folder, "tagger", TaggerConfig))
        checkpoint.load_into(model, folder)
        return model.eval()


def features(wave_CN: Wave, *, num_mels: int = 96) -> Floats:
    """Log-mel frames [T, M] of the mono mix every 23.2 ms, 30 Hz to 16 kHz."""
    mono_N = torch.from_numpy(np.ascontiguousarray(wave_CN, dtype=np.float32)).mean(dim=0)
    mel_MT = log_mel(
        mono_N, n_fft=4096, hop=HOP, n_mels=num_mels, f_min=30.0, f_max=16_000.0, floor=FLOOR
    )
    return np.ascontiguousarray(mel_MT.T.numpy())


def _likeliest_half(chances_WI: Tensor) -> Tensor:
    """Return the mean [I] of every column's larger half."""
    num_windows = -(-len(chances_WI) // 2)
    return chances_WI.topk(num_windows, dim=0).values.mean(dim=0)
