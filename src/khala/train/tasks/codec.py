"""Training the codec on crops of a corpus's songs.

Shape letters: B batch, C channels, N samples, V vectors (frames of many crops).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from khala.codec.adversary import Adversary, AdversaryConfig
from khala.codec.codec import Codec
from khala.codec.config import CodecConfig
from khala.codec.fit import fit_quantizer
from khala.codec.objective import CodecObjective, CodecObjectiveConfig, Judge
from khala.corpus.codes import CodesDataset, CodesExample
from khala.corpus.order import draw, indexes, uniform
from khala.corpus.songs import Corpus, CorpusSong
from khala.errors import ConfigError, CorpusError
from khala.train.adversary import AdversaryUpdates
from khala.train.state import TrainConfig
from khala.train.task import Batch, Task

__all__ = ["CodecRun", "CodecTask", "CodecTaskConfig"]

FIT_STREAM = 1 << 40
"""Steps from here on are crops for fitting codebooks, never met by a training step."""

DRAWN_STREAM = 0x6472776E
"""Keeps the draws of drawn songs apart from those of crops."""

GAINS = ("bias", "weight_g", "alpha")
"""Ends of names of what is no matrix, whatever its shape: lengths of weights, rates of Snakes."""

ADVERSARY_STREAM = 0x61647672
"""Keeps the discriminator's first weights apart from the codec's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecTaskConfig:
    """A codec, its objective, and the crops it sees."""

    codec: CodecConfig
    """What is trained."""

    objective: CodecObjectiveConfig = field(default_factory=CodecObjectiveConfig)
    """What it is trained for."""

    adversary: AdversaryConfig | None = None
    """A discriminator that it is trained against as well; None: the objective alone."""

    batch_size: int = 8
    """Crops per batch."""

    clip_frames: int = 24
    """Frames per crop."""

    gain_db: float = 6.0
    """Each crop is made up to this much quieter, so that loudness is not taken for granted."""

    pca_batches: int = 40
    """Batches of crops from which the spectral transform's linear maps start."""

    quantize_from: int = 500
    """Step at which the codebooks are fitted and quantisation begins."""

    fit_vectors: int = 40_000
    """Latent vectors for that first fit."""

    fit_iterations: int = 8
    """Lloyd's iterations of every level in that first fit."""

    decoder_only: bool = False
    """Go on from a trained codec and move its decoder alone: every song keeps its codes, so models
    trained on them stay valid."""

    drawn: float = 0.0
    """Share of examples decoded from fine levels that super-resolution drew (``khala redraw``);
    only with ``decoder_only``, as moving codebooks would make those codes another codec's."""

    refit_vectors: int = 0
    """Latent vectors for a last fit of the codebooks at export; 0 exports the running averages."""

    validation_clips: int = 12
    """Held-out crops, spread over the test split."""

    validation_frames: int = 96
    """Frames per held-out crop."""

    validation_depths: tuple[int, ...] = (2, 8, 64)
    """Levels decoded in validation."""

    def __post_init__(self) -> None:
        counts = ("batch_size", "clip_frames", "pca_batches", "fit_vectors", "fit_iterations")
        for name in (*counts, "validation_clips"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if max(self.validation_depths) > self.codec.quantizer.num_levels:
            raise ConfigError(f"validation_depths {self.validation_depths} exceed num_levels")
        if self.decoder_only and self.refit_vectors:
            raise ConfigError("decoder_only keeps the codes: refit_vectors must be 0")
        if not 0.0 <= self.drawn <= 1.0:
            raise ConfigError(f"drawn must lie in 0..1, not {self.drawn}")
        if self.drawn and not self.decoder_only:
            raise ConfigError("drawn codes are for decoder_only: elsewhere the codebooks move")
        if self.adversary is not None:
            self._check_adversary(self.adversary)

    def _check_adversary(self, adversary: AdversaryConfig) -> None:
        crop, largest = self.clip_frames * self.codec.hop, max(adversary.discriminator.fft_sizes)
        if crop < largest:
            raise ConfigError(
                f"a crop of clip_frames holds {crop} samples: too few for the adversary's STFT of "
                f"{largest}"
            )
        if adversary.start_step < self.quantize_from and not self.decoder_only:
            raise ConfigError(
                f"adversary.start_step must be at least quantize_from, {self.quantize_from}, not "
                f"{adversary.start_step}: before that nothing is quantised"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecRun:
    """A whole run: what is trained, on what, and how."""

    task: CodecTaskConfig
    """The codec and its batches."""

    train: TrainConfig
    """The loop."""


class CodecTask(Task):
    """Crops in, reconstruction losses out; codebooks follow after every update."""

    kind = "codec"
    unit = "frames"

    def __init__(
        self,
        config: CodecTaskConfig,
        corpus: Corpus,
        *,
        seed: int,
        num_parts: int = 1,
        init: Codec | None = None,
        drawn: CodesDataset | None = None,
        train: TrainConfig | None = None,
    ) -> None:
        """Use the corpus's train songs for training and its test songs for validation.

        Args:
            config: the codec, its objective and its crops.
            corpus: songs, with vocal stems for a guided codec.
            seed: of the first weights and of every crop.
            num_parts: batches of one step, as the loop counts them.
            init: a trained codec to go on from.
            drawn: codes of songs of the corpus with drawn fine levels, for ``config.drawn``.
            train: the loop's config, whose schedule the adversary follows; only it needs one.

        Raises:
            CorpusError: no song is long enough, or a guided codec's vocal stems are missing.
            ConfigError: ``init`` has another shape, or ``decoder_only`` has none; drawn codes are
                wanted and not given, or given and not wanted; an adversary has no schedule.
        """
        if (drawn is None) != (config.drawn == 0.0):
            raise ConfigError("--drawn CODES and --set task.drawn=SHARE go together: give both")
        self.config = config
        self.corpus = corpus
        self.seed = seed
        self.num_parts = num_parts
        self._songs = self._usable("train", config.clip_frames)
        self._held_out = self._usable("test", config.validation_frames, required=False)
        self._drawn = [] if drawn is None else self._with_sound(drawn)
        torch.manual_seed(seed)
        self.objective = CodecObjective(config.codec, config.objective)
        if init is None:
            self._start()
        else:
            self._go_on_from(init)
        self.model: nn.Module = self.objective
        self.updates = None if config.adversary is None else self._opponent(config.adversary, train)

    def _opponent(self, config: AdversaryConfig, train: TrainConfig | None) -> AdversaryUpdates:
        """Return a new discriminator with what moves it."""
        if train is None:
            raise ConfigError("an adversary follows the schedule of the run: give train")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw(self.seed, ADVERSARY_STREAM) >> 1)
            return AdversaryUpdates(Adversary(config, self.config.codec.channels), train)

    def _start(self) -> None:
        if self.config.decoder_only:
            raise ConfigError("decoder_only needs a trained codec to start from: give --init")
        self.objective.start_linear(
            self.batch(FIT_STREAM - 1 - place, 0)["mix"] for place in range(self.config.pca_batches)
        )

    def _go_on_from(self, codec: Codec) -> None:
        if codec.config != self.config.codec:
            raise ConfigError("the codec to start from has another shape than the recipe's")
        objective = self.objective
        objective.codec.load_state_dict(codec.state_dict())
        objective.averages.restart(objective.codec.quantizer, self._vectors_per_step)
        objective.started.fill_(True)
        if self.config.decoder_only:
            objective.requires_grad_(False)
            objective.codec.decoder.requires_grad_(True)

    def batch(self, step: int, part: int) -> Batch:
        """Return "mix" [B, C, N], for a guided codec "vocals" [B, N], and the batch's "number"."""
        number = step * self.num_parts + part
        chosen = indexes(self.seed, number, self.config.batch_size, len(self._songs))
        crops = [
            self._crop(
                self._songs[index],
                self.config.clip_frames,
                uniform(self.seed, step, part, place, 0),
                10 ** (-uniform(self.seed, step, part, place, 1) * self.config.gain_db / 20),
            )
            for place, index in enumerate(chosen)
        ]
        stacked = _stacked(crops)
        if self._drawn:
            stacked["drawn"] = self._put_drawn(stacked, step, part)
        return {**stacked, "number": number}

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return the objective's terms; fits the codebooks when quantisation begins.

        With an adversary, its own gradients are added up on the way.
        """
        if step >= self.config.quantize_from and not bool(self.objective.started):
            latents_VD, guide_VG = self._latents(self.objective.codec, self.config.fit_vectors)
            self.objective.start_quantizer(
                latents_VD,
                guide_VG,
                batch=self._vectors_per_step,
                iterations=self.config.fit_iterations,
            )
        generator = torch.Generator().manual_seed(draw(self.seed, batch["number"], 7) >> 1)
        return self.objective(
            batch["mix"], batch.get("vocals"), generator, batch.get("drawn"), self._judge(step)
        )

    def _judge(self, step: int) -> Judge | None:
        """Return what judges decoded waveforms at a step; None: the reconstruction alone."""
        if self.updates is None:
            return None
        adversary = self.updates.adversary
        begun = step >= adversary.config.start_step and bool(self.objective.started)
        return partial(adversary.judge, active=begun)

    def num_items(self, batch: Batch) -> int:
        """Return frames of audio, over all crops."""
        mix_BCN: Tensor = batch["mix"]
        return mix_BCN.shape[0] * mix_BCN.shape[2] // self.config.codec.hop

    def role(self, name: str, parameter: nn.Parameter) -> str:
        """Say how a parameter is optimised: matrices decay, nothing here is a table."""
        return "gain" if parameter.ndim < 2 or name.endswith(GAINS) else "matrix"

    def clip(self) -> float:
        """Clip the discriminator's gradients; return their norm, 0.0 without any."""
        return 0.0 if self.updates is None else self.updates.clip()

    def forget(self) -> None:
        """Drop what chose the codebooks' codes, and the discriminator's gradients."""
        self.objective.forget()
        if self.updates is not None:
            self.updates.forget()

    def after_update(self, step: int) -> None:
        """Move the discriminator, if there is one, and the codebooks, if they are to move."""
        if self.updates is not None:
            self.updates.step(step - 1)
        self.objective.after_update(step, keep_codes=self.config.decoder_only)

    def extra_state(self) -> dict[str, Tensor]:
        """Return the discriminator, its moments and running means."""
        return {} if self.updates is None else self.updates.state_tensors()

    def load_extra_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `extra_state` gave."""
        if self.updates is not None:
            self.updates.load_state_tensors(tensors)

    def to(self, device: torch.device) -> None:
        """Move the objective and the discriminator to a device."""
        self.objective.to(device)
        if self.updates is not None:
            self.updates.adversary.discriminator.to(device)

    def compile(self) -> None:
        """Compile the objective; with an adversary, which differentiates inside it, its parts."""
        if self.updates is None:
            super().compile()
            return
        codec, discriminator = self.objective.codec, self.updates.adversary.discriminator
        for part in (codec.encoder, codec.decoder, *discriminator.scales):
            part.compile()

    @torch.no_grad()
    def sample(self, step: int) -> Tensor | None:
        """Return an unseen crop, and then what the codec makes of it."""
        del step
        crop = next(iter(self._held_out_crops()), None)
        if crop is None:
            return None
        codec, mix_BCN = self.objective.codec, crop["mix"].to(self._device())
        latents, guide = codec.latents(mix_BCN)
        shown = latents.float()
        if bool(self.objective.started):
            shown = codec.quantizer.decode(codec.quantizer.encode(shown, guide))
        made = codec.synthesise(shown).float()[..., : mix_BCN.shape[-1]]
        return torch.cat((mix_BCN, made), dim=-1)[0].cpu()

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Return the reconstruction terms at some depths, on held-out crops."""
        del step
        codec, totals = self.objective.codec, dict[str, list[float]]()
        depths = self.config.validation_depths if bool(self.objective.started) else (0,)
        for crop in self._held_out_crops():
            mix_BCN = crop["mix"].to(self._device())
            latents, guide = codec.latents(mix_BCN)
            for depth in depths:
                shown = latents.float()
                if depth:
                    codes = codec.quantizer.encode(shown, guide, num_levels=depth)
                    shown = codec.quantizer.decode(codes)
                made = codec.synthesise(shown).float()
                terms = self.objective.reconstruction(made, mix_BCN, other_fft=1)
                for name, value in terms.items():
                    totals.setdefault(f"{name}_k{depth}", []).append(float(value))
        return {name: float(np.mean(values)) for name, values in totals.items()}

    def export(self, folder: Path) -> Path:
        """Write ``codec/`` in a model folder, its codebooks fitted once more if asked for."""
        codec = self.objective.codec
        if self.config.refit_vectors:
            codec = copy.deepcopy(codec)
            latents_VD, guide_VG = self._latents(codec, self.config.refit_vectors)
            fit_quantizer(codec.quantizer, latents_VD, guide_VG, iterations=12)
        # As it will be bundled: codes prepared with another rounding would be another codec's.
        codec.save(folder / "codec", dtype=torch.int8)
        return folder

    @property
    def _vectors_per_step(self) -> int:
        """Frames that move the codebooks at once: those of every part of a step."""
        return self.config.batch_size * self.config.clip_frames * self.num_parts

    def _device(self) -> torch.device:
        return next(self.objective.parameters()).device

    def _usable(self, split: str, frames: int, *, required: bool = True) -> list[CorpusSong]:
        need_s = frames * self.config.codec.hop / self.config.codec.sample_rate_hz
        songs = [song for song in self.corpus.split(split) if song.duration_s >= need_s]
        if required and not songs:
            raise CorpusError(f"no {split} song is as long as a crop of {need_s:.2f} s")
        if self.config.codec.guide is not None:
            for song in songs:
                if "vocals" not in song.audio and not song.instrumental:
                    raise CorpusError(
                        f"song {song.id} has no vocal stem, which a guided codec learns from; "
                        "write the corpus with stems or train without guide"
                    )
        return songs

    def _crop(self, song: CorpusSong, frames: int, place: float, gain: float) -> dict[str, Tensor]:
        """Read one crop of a song; ``place`` in [0, 1) says where."""
        num_samples = frames * self.config.codec.hop
        start = int(place * (self.corpus.num_samples(song) - num_samples))
        crop = {"mix": torch.from_numpy(self.corpus.read_crop(song, start, num_samples)) * gain}
        if self.config.codec.guide is not None:
            vocals_N = torch.zeros(num_samples)
            if "vocals" in song.audio:
                stem_CN = self.corpus.read_crop(song, start, num_samples, stem="vocals")
                vocals_N = torch.from_numpy(stem_CN).mean(0) * gain
            crop["vocals"] = vocals_N
        return crop

    def _with_sound(self, drawn: CodesDataset) -> list[tuple[CorpusSong, CodesExample]]:
        """Return the drawn songs that are long enough, with their recordings."""
        songs = {song.id: song for song in self._songs}
        pairs = [
            (songs[example.id], example)
            for example in drawn
            if example.id in songs and example.num_frames > self.config.clip_frames
        ]
        if not pairs:
            raise CorpusError("none of the drawn songs is a train song of this corpus")
        return pairs

    def _put_drawn(self, crops: Batch, step: int, part: int) -> Tensor:
        """Exchange some crops for ones with drawn codes; return those, -1 for the others."""
        config, levels = self.config, self.config.codec.quantizer.num_levels
        drawn_BQT = torch.full((config.batch_size, levels, config.clip_frames), -1)
        for place in range(config.batch_size):
            address = (self.seed, DRAWN_STREAM, step, part, place)
            if uniform(*address, 0) >= config.drawn:
                continue
            song, example = self._drawn[int(uniform(*address, 1) * len(self._drawn))]
            # One frame less than there is: the last one may be padded.
            first = int(uniform(*address, 2) * (example.num_frames - config.clip_frames))
            num_samples = config.clip_frames * config.codec.hop
            sound_CN = self.corpus.read_crop(song, first * config.codec.hop, num_samples)
            crops["mix"][place] = torch.from_numpy(sound_CN)
            codes_QT = example.codes_QT[:, first : first + config.clip_frames].astype(np.int64)
            drawn_BQT[place] = torch.from_numpy(codes_QT)
        return drawn_BQT

    def _held_out_crops(self) -> Iterator[Batch]:
        songs = self._held_out[:: max(1, len(self._held_out) // self.config.validation_clips)]
        for song in songs[: self.config.validation_clips]:
            yield _stacked([self._crop(song, self.config.validation_frames, 0.4, 1.0)])

    @torch.no_grad()
    def _latents(self, codec: Codec, count: int) -> tuple[Tensor, Tensor | None]:
        """Return ``count`` latent vectors of training crops, and the guide's output for them."""
        latents, guides, have, step = [], [], 0, FIT_STREAM
        while have < count:
            batch = self.batch(step, 0)
            latents_BTD, guide_BTG = codec.latents(batch["mix"].to(self._device()))
            latents.append(latents_BTD.float().flatten(0, 1))
            if guide_BTG is not None:
                guides.append(guide_BTG.float().flatten(0, 1))
            have, step = have + latents[-1].shape[0], step + 1
        return torch.cat(latents)[:count], torch.cat(guides)[:count] if guides else None


def _stacked(crops: list[dict[str, Tensor]]) -> Batch:
    return {name: torch.stack([crop[name] for crop in crops]) for name in crops[0]}
