"""Training super-resolution: Task 1 writes any level from those below, Task 0 keeps the words.

Shape letters: B batch, P prompt positions, Q levels, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from khala.backbone import Backbone
from khala.codec import Codec
from khala.corpus import HELD_OUT, CodesDataset, CodesExample, with_excerpts
from khala.corpus.order import BatchPlan, draw, uniform
from khala.errors import ConfigError
from khala.nn.lora import LoraConfig
from khala.superres import (
    Packing,
    SuperResConfig,
    SuperResolution,
    task_0_losses,
    task_1_losses,
)
from khala.tokens import COARSE_LEVELS, TextTokenizer
from khala.train.baselines import unigram, unigram_nats
from khala.train.flops import trunk_flops
from khala.train.lessons import UNKNOWN, Lessons
from khala.train.prompts import PromptConfig, Prompts, first_fitting, partner_lyrics
from khala.train.state import TrainConfig
from khala.train.task import Batch, Task
from khala.train.tasks.backbone import gap_with_error
from khala.train.tuning import Tuning, dropping
from khala.train.watch import Watched

__all__ = ["SuperResRun", "SuperResTask", "SuperResTaskConfig"]

SAMPLE_S = 8.0
"""Of a song, to be listened to while training."""

TASK_STREAM, LEVEL_STREAM, CROP_STREAM = 0x7461736B, 0x6C76656C, 0x63726F70


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperResTaskConfig:
    """What a step of super-resolution sees."""

    positions_per_batch: int = 16_384
    """Prompt and frames of one batch, padding included."""

    prompts: PromptConfig = field(default_factory=PromptConfig)
    """How songs are asked for."""

    excerpt_max_s: float = 0.0
    """Train also on sections and runs of sections up to this long, with their own words."""

    task_0_ratio: float = 0.15
    """Part of the batches that are Task 0: causal, level 0."""

    level_power: float = 0.0
    """Target level N is drawn with a chance of N to the minus this: 0 is uniform."""

    level_chances: tuple[float, ...] = ()
    """Relative chance of each fine level, 2 first, instead of ``level_power``; empty: not given."""

    mixed_levels: bool = True
    """Every song of a batch has a target level of its own, not all the same."""

    crop_frames: int | None = None
    """Train on windows of this many frames under the whole prompt; None: whole songs."""

    lessons: float = 0.0
    """Weight of telling one layer which phoneme and chord sound in each frame, in Task 1 (see
    ``train.lessons``); 0: not told, as published."""

    lessons_layer: int = 4
    """The layer that is told."""

    valid_levels: tuple[int, ...] = (2, 3, 4, 8, 16, 32, 63)
    """Levels that are measured."""

    num_valid_songs: int = 6
    """Songs of each unseen split that are measured."""

    lora: LoraConfig | None = None
    """Train a low-rank change of the model to go on from, and export an adapter; None: train the
    model itself."""

    def __post_init__(self) -> None:
        if self.positions_per_batch < 1 or self.num_valid_songs < 1:
            raise ConfigError("positions_per_batch and num_valid_songs must be at least 1")
        if not 0 <= self.task_0_ratio <= 1:
            raise ConfigError(f"task_0_ratio must lie in [0, 1], not {self.task_0_ratio}")
        if self.crop_frames is not None and self.crop_frames < 1:
            raise ConfigError(f"crop_frames must be positive or None, not {self.crop_frames}")
        if any(not 0 <= chance < math.inf for chance in self.level_chances) or (
            self.level_chances and not any(self.level_chances)
        ):
            raise ConfigError("level_chances must be finite, not negative, and not all 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperResRun:
    """A whole run: what is trained, on what, and how."""

    model: SuperResConfig
    """The model; its trunk and text are those of the backbone it starts from."""

    task: SuperResTaskConfig
    """The batches."""

    train: TrainConfig
    """The loop."""

    def __post_init__(self) -> None:
        layers = self.model.trunk.num_layers
        if self.task.lessons and not 0 <= self.task.lessons_layer < layers:
            raise ConfigError(
                f"lessons_layer must lie in 0..{layers - 1}, not {self.task.lessons_layer}"
            )
        given, fine = len(self.task.level_chances), self.model.layout.num_levels - COARSE_LEVELS
        if given not in (0, fine):
            raise ConfigError(f"level_chances has {given} numbers, the model {fine} fine levels")


def _started(run: SuperResRun, start: Backbone | SuperResolution | None) -> SuperResolution:
    """Return the model as it is before the first step."""
    if start is None:
        return SuperResolution(run.model, seed=run.train.seed)
    if isinstance(start, Backbone):
        return SuperResolution.from_backbone(start, run.model, seed=run.train.seed)
    shape = replace(
        start.config,
        sampling_top_k=run.model.sampling_top_k,
        sampling_temperature=run.model.sampling_temperature,
    )
    if shape != run.model:
        raise ConfigError("the model to go on from has another shape than the recipe's")
    model = SuperResolution(run.model)
    model.load_state_dict(start.state_dict())
    return model


def _level_ends(run: SuperResRun) -> NDArray[np.float64]:
    """Return where the chance of each fine level ends in [0, 1)."""
    targets = np.arange(COARSE_LEVELS, run.model.layout.num_levels, dtype=np.float64)
    chances = np.array(run.task.level_chances or targets**-run.task.level_power)
    ends: NDArray[np.float64] = np.cumsum(chances / chances.sum())
    return ends


class SuperResTask(Task):
    """Fine levels of prepared songs."""

    kind = "superres"
    unit = "positions"

    def __init__(
        self,
        run: SuperResRun,
        codes: CodesDataset,
        tokenizer: TextTokenizer,
        *,
        start: Backbone | SuperResolution | None = None,
        base: str | None = None,
        codec: Codec | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Make examples of the train songs and start the model.

        Args:
            run: the whole run.
            codes: prepared songs.
            tokenizer: of the model.
            start: the backbone to start from, or a model of the run's shape to go on from.
            base: digest of the folder that such a model was read from; an adapter needs it.
            codec: starts the tables of the fine levels.
            say: takes lines for the reader.

        Raises:
            ConfigError: ``start`` has another shape, no song fits, or an adapter has no base.
        """
        num_levels = run.model.layout.num_levels
        if codes.num_levels < num_levels:
            raise ConfigError(f"the codes have {codes.num_levels} levels, the model {num_levels}")
        self.run, self.tokenizer = run, tokenizer
        self.superres = _started(run, start)
        self.tuning: Tuning | None = None
        if run.task.lora is not None:
            self.tuning = Tuning.begin(
                self.superres, run.task.lora, part=self.kind, base=base, seed=run.train.seed
            )
            self.product = "adapter"
        self.model: nn.Module = self.superres
        self.lessons: Lessons | None = None
        if run.task.lessons:
            torch.manual_seed(run.train.seed)
            self.lessons = Lessons.of(codes, width=run.model.trunk.width)
            self.model = nn.ModuleDict({"superres": self.superres, "lessons": self.lessons})
        self.codec = codec
        if codec is not None:
            every_V = torch.arange(codec.config.quantizer.codebook_size)
            vectors = [codec.quantizer.vectors(every_V, level) for level in range(num_levels)]
            self.superres.start_from_latents(torch.stack(vectors), seed=run.train.seed)
        train = with_excerpts(codes.split("train"), run.task.excerpt_max_s)
        prompts = self._prompts(train)
        lengths = [self._length(prompts, index) for index in range(len(train))]
        chosen = [i for i, length in enumerate(lengths) if length is not None]
        if len(chosen) < len(train):
            say(f"{len(train) - len(chosen)} of {len(train)} songs are too long and left out")
        if not chosen:
            raise ConfigError(
                f"none of {len(train)} train songs is short enough, prompt and a position a frame: "
                f"max_positions={run.model.max_positions}, "
                f"task.positions_per_batch={run.task.positions_per_batch}"
            )
        self.examples = [train[i] for i in chosen]
        self.prompts = self._prompts(self.examples)
        if self.superres.levels is not None and not isinstance(start, SuperResolution):
            seen = [example.codes_QT for example in self.examples]
            size = run.model.layout.codebook_size
            counted = [unigram(seen, level, size) for level in range(COARSE_LEVELS, num_levels)]
            self.superres.levels.start_from_chances(torch.from_numpy(np.stack(counted)))
        self.plan = BatchPlan(
            [length for length in lengths if length is not None],
            max_tokens=run.task.positions_per_batch,
            seed=run.train.seed,
        )
        self._level_ends = _level_ends(run)
        self.valid = {
            split: first_fitting(
                self._prompts(codes.split(split)), run.task.num_valid_songs,
                room=run.model.max_positions, per_frame=1,
            )
            for split in HELD_OUT
        }  # fmt: skip

    def batch(self, step: int, part: int) -> Batch:
        indexes = self.plan.at(step * self.run.train.num_parts + part)
        seed = self.run.train.seed
        songs, targets = [], []
        for index in indexes:
            example = self.examples[index]
            start, end = self._window(example, draw(seed, CROP_STREAM, step, part, index))
            prompt = self.prompts.drawn(index, step, part)
            songs.append((prompt, example.codes_QT[:, start:end]))
            if self.lessons is not None:
                targets.append(self.lessons.targets(example)[start:end])
        is_task_0 = uniform(seed, TASK_STREAM, step, part) < self.run.task.task_0_ratio
        levels = [
            self._level(uniform(seed, LEVEL_STREAM, step, part, place))
            for place in range(len(indexes) if self.run.task.mixed_levels else 1)
        ]
        if not self.run.task.mixed_levels:
            levels *= len(indexes)
        batch = self.collate(songs, [0] * len(indexes) if is_task_0 else levels)
        if targets:
            batch["lessons_BT4"] = pad_sequence(targets, batch_first=True, padding_value=UNKNOWN)
        dropped = {} if self.tuning is None else self.tuning.dropout_seed(step, part)
        return {**batch, **dropped}

    def collate(
        self, songs: Sequence[tuple[list[int], np.ndarray]], levels: Sequence[int]
    ) -> Batch:
        """Return prompts and codes padded on the right; level 0 everywhere asks for Task 0."""
        prompt_lengths = [len(prompt) for prompt, _ in songs]
        num_frames = [codes_QT.shape[1] for _, codes_QT in songs]
        num_levels = max(levels) + 1
        prompt_BP = torch.zeros(len(songs), max(prompt_lengths), dtype=torch.int64)
        codes_BQT = torch.zeros(len(songs), num_levels, max(num_frames), dtype=torch.int64)
        for row, (prompt, codes_QT) in enumerate(songs):
            prompt_BP[row, : len(prompt)] = torch.tensor(prompt)
            codes = torch.from_numpy(codes_QT[:num_levels].astype(np.int64))
            codes_BQT[row, :, : codes.shape[1]] = codes
        return {
            "prompt_BP": prompt_BP,
            "codes_BQT": codes_BQT,
            "prompt_lengths_B": torch.tensor(prompt_lengths),
            "num_frames_B": torch.tensor(num_frames),
            "is_full": len({*prompt_lengths}) == 1 and len({*num_frames}) == 1,
            "levels": list(levels),
        }

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:  # noqa: ARG002
        with dropping(batch.get("dropout_seed")):
            return self._losses(batch)

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        prompt_BP, codes_BQT = batch["prompt_BP"], batch["codes_BQT"]
        packing = Packing(
            prompt_lengths_B=batch["prompt_lengths_B"],
            num_frames_B=batch["num_frames_B"],
            max_prompt=prompt_BP.shape[1],
            max_frames=codes_BQT.shape[2],
            is_full=batch["is_full"],
        )
        if not any(batch["levels"]):
            losses = task_0_losses(self.superres, prompt_BP, codes_BQT, packing=packing)
            return {"loss": losses["loss"], "task_0": losses["loss"].detach()}
        if self.lessons is None or "lessons_BT4" not in batch:
            losses = task_1_losses(
                self.superres, prompt_BP, codes_BQT, batch["levels"], packing=packing
            )
            return {**losses, "task_1": losses["loss"].detach()}
        with Watched(self.superres.layers[self.run.task.lessons_layer]) as taught:
            losses = task_1_losses(
                self.superres, prompt_BP, codes_BQT, batch["levels"], packing=packing
            )
        frames_BTD = packing.frames_of(taught.output)
        read = self.lessons(frames_BTD.flatten(0, 1), batch["lessons_BT4"].flatten(0, 1))
        total = losses["loss"] + self.run.task.lessons * sum(read.values())
        return {**losses, **read, "task_1": losses["loss"].detach(), "loss": total}

    def num_items(self, batch: Batch) -> int:
        return int(batch["prompt_BP"].numel() + batch["codes_BQT"][:, 0].numel())

    def num_flops(self, batch: Batch) -> float:
        model, streams = self.run.model, len(batch["levels"])
        frames = batch["codes_BQT"].shape[2]
        return trunk_flops(
            model.trunk,
            lengths=[batch["prompt_BP"].shape[1] + frames] * streams,
            head_rows=model.layout.codebook_size,
            head_positions=streams * frames,
            causal=not any(batch["levels"]),
        )

    def sample(self, step: int) -> Tensor | None:  # noqa: ARG002
        """Return the beginning of an unseen song, completed from its true coarse codes."""
        example = next((one[0] for one in self.valid.values() if one), None)
        if self.codec is None or example is None:
            return None
        config, prompt = self.codec.config, self.prompts.build(example)
        room = self.run.model.max_positions - len(prompt)
        num_frames = min(round(SAMPLE_S * config.sample_rate_hz / config.hop), room)
        if num_frames < 1:
            return None
        coarse_2T = example.codes_QT[:COARSE_LEVELS, :num_frames].astype(np.int64)
        codes_QT = self.superres.complete(
            prompt, torch.from_numpy(coarse_2T), seed=self.run.train.seed
        )
        return self.codec.decode(codes_QT.cpu()[None])[0]

    def validate(self, step: int) -> dict[str, float]:
        """Return nats of some levels of every unseen split, and what lyrics are worth at level 2.

        "task_0" is the causal loss of level 0.
        """
        values: dict[str, float] = {}
        for split, examples in self.valid.items():
            for level in (0, *self._valid_levels()) if examples else ():
                songs = [
                    self._song_loss(self.prompts.build(example), example, level, step)
                    for example in examples
                ]
                name = f"level_{level}" if level else "task_0"
                values[f"{split}/{name}"] = float(np.mean(songs))
            foreign = [
                (example, self.prompts.build(example, lyrics=lyrics))
                for example, lyrics in zip(examples, partner_lyrics(examples), strict=True)
                if lyrics is not None
            ]
            gaps = [
                self._song_loss(prompt, example, 2, step)
                - self._song_loss(self.prompts.build(example), example, 2, step)
                for example, prompt in foreign
                if len(prompt) + example.num_frames <= self.run.model.max_positions
            ]
            gap, error = gap_with_error(gaps)
            values[f"{split}/gap_2"], values[f"{split}/gap_2_se"] = gap, error
        return values

    def baselines(self) -> dict[str, float]:
        """Return the surprise of each measured level under its frequencies, in nats."""
        train = [example.codes_QT for example in self.examples]
        size = self.run.model.layout.codebook_size
        return {
            f"{split}/unigram_{level}": unigram_nats(
                train, [example.codes_QT for example in examples], level, size
            )
            for split, examples in self.valid.items()
            for level in self._valid_levels()
            if examples
        }

    def compile(self) -> None:
        """Compile each layer: the lengths of batches differ, and only layers are worth it.

        A layer that is watched stays as it is: compiled ones cannot be looked into.
        """
        for index, layer in enumerate(self.superres.layers):
            if not (self.run.task.lessons and index == self.run.task.lessons_layer):
                layer.compile(dynamic=True)

    def export(self, folder: Path) -> Path:
        if self.tuning is not None:
            return self.tuning.export(folder)
        self.superres.save(folder / "superres")
        self.tokenizer.save(folder / "tokenizer.json")
        return folder

    def _song_loss(self, prompt: list[int], example: CodesExample, level: int, step: int) -> float:
        """Return the loss of one level of one whole song."""
        batch = self.collate([(prompt, example.codes_QT)], [level])
        device = next(self.superres.parameters()).device
        placed = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        return float(self.losses(placed, step)["loss"])

    def _valid_levels(self) -> list[int]:
        num_levels = self.run.model.layout.num_levels
        return [level for level in self.run.task.valid_levels if level < num_levels]

    def _level(self, value: float) -> int:
        """Turn a uniform draw into a target level."""
        place = int(np.searchsorted(self._level_ends, value, side="right"))
        return COARSE_LEVELS + min(place, len(self._level_ends) - 1)

    def _window(self, example: CodesExample, bits: int) -> tuple[int, int]:
        """Return the frames of a song that are trained on in a step."""
        crop = self.run.task.crop_frames
        if crop is None or example.num_frames <= crop:
            return 0, example.num_frames
        start = bits % (example.num_frames - crop + 1)
        return start, start + crop

    def _prompts(self, examples: Sequence[CodesExample]) -> Prompts:
        run = self.run
        return Prompts(
            examples, run.task.prompts, run.model.layout, self.tokenizer, seed=run.train.seed
        )

    def _length(self, prompts: Prompts, index: int) -> int | None:
        """Return the length of a song's stream; None if it is not to be trained on."""
        longest = prompts.longest(index)
        if longest is None:
            return None
        start, end = self._window(prompts.examples[index], 0)
        length = longest + end - start
        fits = length <= min(self.run.model.max_positions, self.run.task.positions_per_batch)
        return length if fits else None
