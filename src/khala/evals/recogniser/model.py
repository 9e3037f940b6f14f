"""A small phoneme recogniser: it hears which words a song sings.

Shape letters, this room: B batch, C channels, N samples, M mel bands, T mel frames, S output
steps (two mel frames each), D width, P phonemes + 1.

It is a measuring instrument, trained on the demo corpus's own ground truth and never on anything
that has been through our codec, so it cannot learn to forgive what the codec does to a voice.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from khala import checkpoint
from khala.audio import log_mel
from khala.errors import CheckpointError, ConfigError
from khala.evals.distances import SAMPLE_RATE_HZ, Wave

Beams = dict[tuple[int, ...], tuple[float, float]]

BLANK = 0
NEVER = float("-inf")
HOP = 512
STEP_S = 2 * HOP / SAMPLE_RATE_HZ
"""Time between two outputs: 23.2 ms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecogniserConfig:
    """What the network looks like and which phonemes it knows."""

    phonemes: tuple[str, ...]
    """Names of the outputs after the blank, in order."""

    num_mels: int = 80
    """Mel bands between 60 Hz and 8 kHz."""

    width: int = 192
    """Channels of every block."""

    dilations: tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8)
    """One block each: the distance in steps of the neighbours it looks at."""

    dropout: float = 0.1
    """Share of activations dropped in training."""

    def __post_init__(self) -> None:
        if not self.phonemes or len(set(self.phonemes)) != len(self.phonemes):
            raise ConfigError("a recogniser needs phonemes, each named once")
        if min(self.num_mels, self.width, *self.dilations) < 1 or not self.dilations:
            raise ConfigError(f"sizes of a recogniser must be positive: {self}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout must be in [0, 1), not {self.dropout}")


class Block(nn.Module):
    """Residual block: normalise, one linear map over three steps, GELU, another linear map."""

    def __init__(self, config: RecogniserConfig, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = nn.LayerNorm(config.width)
        self.mix = nn.Linear(3 * config.width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        """Return the block's output, the same shape."""
        reach, num_steps = self.dilation, hidden_BSD.shape[1]
        padded = functional.pad(self.norm(hidden_BSD), (0, 0, reach, reach))
        shifted = [padded[:, at : at + num_steps] for at in (0, reach, 2 * reach)]
        mixed = functional.gelu(self.mix(torch.cat(shifted, dim=-1)))
        result: Tensor = hidden_BSD + self.dropout(self.out(mixed))
        return result


class Recogniser(nn.Module):
    """Log-mel frames to phoneme scores, plus the corpus's dictionary of pronunciations."""

    mean_M: Tensor
    deviation_M: Tensor

    def __init__(self, config: RecogniserConfig) -> None:
        super().__init__()
        self.config = config
        self.words: dict[str, tuple[str, ...]] = {}
        self.register_buffer("mean_M", torch.zeros(config.num_mels))
        self.register_buffer("deviation_M", torch.ones(config.num_mels))
        self.stem = nn.Linear(4 * config.num_mels, config.width)
        self.blocks = nn.ModuleList(Block(config, dilation) for dilation in config.dilations)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, len(config.phonemes) + 1)

    def forward(self, features_BTM: Tensor) -> Tensor:
        """Return log-probabilities [B, S, P], S = ceil(T / 2); class 0 is the blank."""
        scaled = (features_BTM - self.mean_M) / self.deviation_M
        num_frames = scaled.shape[1]
        num_steps = -(-num_frames // 2)
        padded = functional.pad(scaled, (0, 0, 1, 2 * num_steps - num_frames + 1))
        windows_BSMK = padded.unfold(1, 4, 2)
        hidden_BSD = self.stem(windows_BSMK.flatten(2))
        for block in self.blocks:
            hidden_BSD = block(hidden_BSD)
        logits_BSP = self.head(self.norm(hidden_BSD))
        return functional.log_softmax(logits_BSP.float(), dim=-1)

    @torch.inference_mode()
    def scores(self, wave_CN: Wave) -> Tensor:
        """Return the log-probabilities [S, P] of a 44.1 kHz wave, mono or stereo, of any length."""
        features_TM = torch.from_numpy(features(wave_CN, num_mels=self.config.num_mels))
        was_training = self.training
        self.eval()
        scores_SP: Tensor = self(features_TM.float()[None])[0]
        self.train(was_training)
        return scores_SP

    def recognise(self, wave_CN: Wave, *, beam: int = 1) -> list[str]:
        """Return the phonemes heard in a 44.1 kHz wave, mono or stereo, of any length."""
        scores_SP = self.scores(wave_CN)
        ids = greedy(scores_SP) if beam <= 1 else beam_search(scores_SP.numpy(), beam=beam)
        return [self.config.phonemes[index - 1] for index in ids]

    def save(self, folder: Path) -> str:
        """Write config, weights and words.json as a model folder; return its digest."""
        checkpoint.save_model(
            folder, kind="recogniser", config=self.config, tensors=self.state_dict()
        )
        text = json.dumps({word: list(said) for word, said in sorted(self.words.items())})
        (folder / "words.json").write_text(text + "\n")
        return checkpoint.write_manifest(folder)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Recogniser:
        """Read a recogniser that `save` wrote.

        Raises:
            CheckpointError: a file is missing, damaged, or of another kind of model.
        """
        model = cls(checkpoint.load_config(folder, "recogniser", RecogniserConfig))
        checkpoint.load_into(model, folder)
        path = checkpoint.verify(folder, "words.json")
        try:
            words = json.loads(path.read_text())
            model.words = {str(word): tuple(said) for word, said in words.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{path} is not a dictionary of words: {error}") from error
        return model.eval()


def features(wave_CN: Wave, *, num_mels: int = 80) -> Wave:
    """Log-mel frames [T, M] of the mono mix every 11.6 ms, less the clip's own mean level."""
    mono_N = torch.from_numpy(np.ascontiguousarray(wave_CN, dtype=np.float32)).mean(dim=0)
    mel_MT = log_mel(
        mono_N, n_fft=1536, hop=HOP, n_mels=num_mels, f_min=60.0, f_max=8000.0, floor=1e-3
    )
    return np.ascontiguousarray((mel_MT - mel_MT.mean()).T.numpy())


def greedy(scores_SP: Tensor) -> list[int]:
    """Return the best class of every step, repeats merged, blanks dropped."""
    best = scores_SP.argmax(dim=-1).tolist()
    return [index for index, _ in itertools.groupby(best) if index != BLANK]


def beam_search(scores_SP: Wave, *, beam: int, num_candidates: int = 8) -> list[int]:
    """Return the most probable phoneme sequence over all its alignments (prefix beam search).

    https://arxiv.org/abs/1408.2873 without a language model: an instrument that guesses from
    context would hear words that are not sung.
    """
    beams: Beams = {(): (0.0, NEVER)}
    for scores_P in scores_SP:
        grown: Beams = {}
        likely = np.argpartition(-scores_P, min(num_candidates, scores_P.size - 1))
        labels = [index for index in likely[:num_candidates].tolist() if index != BLANK]
        for prefix, (ends_blank, ends_label) in beams.items():
            total = np.logaddexp(ends_blank, ends_label)
            _add(grown, prefix, total + scores_P[BLANK], NEVER)
            if prefix:
                _add(grown, prefix, NEVER, ends_label + scores_P[prefix[-1]])
            for index in labels:
                before = ends_blank if prefix and prefix[-1] == index else total
                _add(grown, (*prefix, index), NEVER, before + scores_P[index])
        ranked = sorted(grown.items(), key=lambda item: -np.logaddexp(*item[1]))
        beams = dict(ranked[:beam])
    return list(max(beams.items(), key=lambda item: np.logaddexp(*item[1]))[0])


def _add(beams: Beams, prefix: tuple[int, ...], ends_blank: float, ends_label: float) -> None:
    """Add the probability of more alignments of a prefix: (ending in a blank, in its last)."""
    old = beams.get(prefix, (NEVER, NEVER))
    beams[prefix] = (
        float(np.logaddexp(old[0], ends_blank)),
        float(np.logaddexp(old[1], ends_label)),
    )
