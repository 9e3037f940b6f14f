"""Training the backbone: prompt, then levels 0 and 1 frame by frame, then the end token.

Shape letters: B batch, S stream positions, Q levels, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from khala.backbone import Backbone, BackboneConfig, next_token_losses, start_tables
from khala.backbone.generate import generate_coarse
from khala.codec import Codec
from khala.corpus import HELD_OUT, CodesDataset, CodesExample, with_excerpts
from khala.corpus.order import BatchPlan
from khala.errors import ConfigError
from khala.nn.lora import LoraConfig
from khala.tokens import COARSE_LEVELS, TextTokenizer, interleave
from khala.train.alignment import WatchedHead, letters_sung, word_spans
from khala.train.baselines import bigram_nats, unigram_nats
from khala.train.batches import on_device
from khala.train.flops import trunk_flops
from khala.train.lessons import Lessons
from khala.train.prompts import PromptConfig, Prompts, first_fitting, partner_lyrics
from khala.train.state import TrainConfig
from khala.train.task import Batch, Task
from khala.train.tuning import Tuning, dropping
from khala.train.watch import Watched

__all__ = ["BackboneRun", "BackboneTask", "BackboneTaskConfig", "gap_with_error"]

SAMPLE_S, SAMPLE_TOP_K = 8.0, 80
"""What is listened to while training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneTaskConfig:
    """What a step of the backbone sees."""

    tokens_per_batch: int = 16_384
    """Positions of one batch, padding included."""

    prompts: PromptConfig = field(default_factory=PromptConfig)
    """How songs are asked for."""

    excerpt_max_s: float = 0.0
    """Train also on sections and runs of sections up to this long, with their own words."""

    line_excerpts: bool = False
    """Train also on single sung lines, where the corpus knows when words are sung."""

    alignment: float = 0.0
    """Weight of telling one attention head which word is sung (see ``train.alignment``); 0: the
    model finds that by itself, as published."""

    alignment_layers: tuple[int, ...] = (2, 4)
    """Layers whose first head is told; a later one can go on from where an earlier one was."""

    lessons: float = 0.0
    """Weight of telling one layer which phoneme and chord sound and when the next beat comes (see
    ``train.lessons``); 0: not told, as published."""

    lessons_layer: int = 4
    """The layer that is told."""

    full_vocabulary: bool = False
    """Normalise over text ids too, which are never scored; see ``next_token_losses``."""

    max_duration_s: float | None = None
    """Train only on songs up to this length, as a first stage; None: on all."""

    num_valid_songs: int = 16
    """Songs of each unseen split that are measured."""

    lora: LoraConfig | None = None
    """Train a low-rank change of the model to start from, and export an adapter; None: train the
    model itself."""

    def __post_init__(self) -> None:
        if self.tokens_per_batch < 1 or self.num_valid_songs < 1:
            raise ConfigError("tokens_per_batch and num_valid_songs must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneRun:
    """A whole run: what is trained, on what, and how."""

    model: BackboneConfig
    """The model."""

    task: BackboneTaskConfig
    """The batches."""

    train: TrainConfig
    """The loop."""

    def __post_init__(self) -> None:
        layers = self.model.trunk.num_layers
        watched = self.task.alignment_layers if self.task.alignment else ()
        if any(not 0 <= layer < layers for layer in watched):
            raise ConfigError(f"alignment_layers must lie in 0..{layers - 1}, not {watched}")
        if self.task.lessons and not 0 <= self.task.lessons_layer < layers:
            raise ConfigError(
                f"lessons_layer must lie in 0..{layers - 1}, not {self.task.lessons_layer}"
            )


class BackboneTask(Task):
    """Next audio token of prepared songs."""

    kind = "backbone"
    unit = "tokens"

    def __init__(
        self,
        run: BackboneRun,
        codes: CodesDataset,
        tokenizer: TextTokenizer,
        *,
        init: Backbone | None = None,
        base: str | None = None,
        codec: Codec | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Make examples of the train songs and start the model.

        Args:
            run: the whole run.
            codes: prepared songs.
            tokenizer: of the model.
            init: a backbone of the run's shape to start from.
            base: digest of the folder that ``init`` was read from; an adapter needs it.
            codec: starts the tables of a new backbone, and makes samples sound.
            say: takes lines for the reader.

        Raises:
            ConfigError: ``init`` has another shape, no song fits, or an adapter has no base.
        """
        self.run, self.tokenizer, self.codec = run, tokenizer, codec
        self.backbone = Backbone(run.model, seed=run.train.seed)
        if init is not None:
            if replace(init.config, guidance_scale=run.model.guidance_scale) != run.model:
                raise ConfigError("the backbone to start from has another shape than the recipe's")
            self.backbone.load_state_dict(init.state_dict())
        elif codec is not None:
            start_tables(self.backbone, coarse_vectors(codec), seed=run.train.seed)
        self.tuning: Tuning | None = None
        if run.task.lora is not None:
            self.tuning = Tuning.begin(
                self.backbone, run.task.lora, part=self.kind, base=base, seed=run.train.seed
            )
            self.product = "adapter"
        train = with_excerpts(
            codes.split("train"), run.task.excerpt_max_s, lines=run.task.line_excerpts
        )
        prompts = self._prompts(train)
        lengths = [self._length(prompts, index) for index in range(len(train))]
        chosen = [i for i, length in enumerate(lengths) if length is not None]
        if len(chosen) < len(train):
            say(f"{len(train) - len(chosen)} of {len(train)} songs are too long and left out")
        if not chosen:
            raise ConfigError(
                f"none of {len(train)} train songs is short enough, prompt and 2 tokens a frame: "
                f"max_positions={run.model.max_positions}, "
                f"task.tokens_per_batch={run.task.tokens_per_batch}"
            )
        self.examples = [train[i] for i in chosen]
        self.prompts = self._prompts(self.examples)
        self.model: nn.Module = self.backbone
        self.lessons: Lessons | None = None
        if run.task.lessons:
            torch.manual_seed(run.train.seed)
            self.lessons = Lessons.of(codes, width=run.model.trunk.width)
            self.model = nn.ModuleDict({"backbone": self.backbone, "lessons": self.lessons})
        self.plan = BatchPlan(
            [length for length in lengths if length is not None],
            max_tokens=run.task.tokens_per_batch,
            seed=run.train.seed,
            packed=True,
        )
        self.valid = {
            split: first_fitting(
                self._prompts(codes.split(split)), run.task.num_valid_songs,
                room=run.model.max_positions, per_frame=COARSE_LEVELS,
            )
            for split in HELD_OUT
        }  # fmt: skip

    def batch(self, step: int, part: int) -> Batch:
        place = step * self.run.train.num_parts + part
        songs = [
            (self.prompts.drawn(index, step, part), self.examples[index])
            for index in self.plan.at(place)
        ]
        dropped = {} if self.tuning is None else self.tuning.dropout_seed(step, part)
        return {**self.collate(songs), **dropped}

    def collate(self, songs: Sequence[tuple[list[int], CodesExample]]) -> Batch:
        """Return streams one after another in one row, and which of their tokens are scored.

        No stream sees another: see ``Trunk.transform``.
        """
        end = self.run.model.layout.control.end_of_text
        streams, masks, lengths = [], [], list[int]()
        targets = [torch.zeros(0, 4, dtype=torch.int64)]
        lessons = [torch.zeros(0, 5, dtype=torch.int64)]
        for prompt, example in songs:
            start = sum(lengths)
            codes_BQT = torch.from_numpy(example.codes_QT[None, :COARSE_LEVELS].astype(np.int64))
            audio_S = interleave(codes_BQT, self.run.model.layout)[0]
            streams.append(torch.cat((torch.tensor(prompt), audio_S, torch.tensor([end]))))
            lengths.append(len(streams[-1]))
            masks.append(torch.arange(lengths[-1]) >= len(prompt))
            if self.run.task.alignment:
                targets.append(start + self._sung(prompt, example))
            if self.lessons is not None:
                lessons.append(self._taught(start, prompt, example, self.lessons))
        return {
            "tokens_BS": torch.cat(streams)[None],
            "loss_mask_BS": torch.cat(masks)[None],
            "lengths": lengths,
            "targets_N4": torch.cat(targets),
            "lessons_N5": torch.cat(lessons),
        }

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:  # noqa: ARG002
        task = self.run.task
        layers = task.alignment_layers if task.alignment else ()
        heads = [WatchedHead(self.backbone, layer, 0) for layer in layers]
        taught = Watched(self.backbone.layers[task.lessons_layer]) if task.lessons else None
        with ExitStack() as watching:
            for head in heads:
                watching.enter_context(head)
            if taught is not None:
                watching.enter_context(taught)
            watching.enter_context(dropping(batch.get("dropout_seed")))
            terms = self._next_token(batch)
        for layer, head in zip(layers, heads, strict=True):
            terms[f"alignment_{layer}"] = head.loss(batch["targets_N4"])
            terms["loss"] = terms["loss"] + task.alignment * terms[f"alignment_{layer}"]
        if taught is not None and self.lessons is not None:
            query_N, targets_N4 = batch["lessons_N5"][:, 0], batch["lessons_N5"][:, 1:]
            read = self.lessons(taught.output[0, query_N], targets_N4)
            terms |= read
            terms["loss"] = terms["loss"] + task.lessons * sum(read.values())
        return terms

    def num_items(self, batch: Batch) -> int:
        return int(batch["tokens_BS"].numel())

    def num_flops(self, batch: Batch) -> float:
        model = self.run.model
        window = COARSE_LEVELS * model.layout.codebook_size + 1
        return trunk_flops(
            model.trunk,
            lengths=batch["lengths"],
            head_rows=model.vocab_size if self.run.task.full_vocabulary else window,
            head_positions=int(batch["loss_mask_BS"].sum()),
            causal=True,
        )

    def sample(self, step: int) -> Tensor | None:  # noqa: ARG002
        """Return the beginning of an unseen song's request, written now; its two levels decoded."""
        split = next((split for split in HELD_OUT if self.valid[split]), None)
        if self.codec is None or split is None:
            return None
        config, prompt_S = self.codec.config, self.valid_prompt(split, 0)
        room = (self.run.model.max_positions - len(prompt_S)) // COARSE_LEVELS
        num_frames = min(round(SAMPLE_S * config.sample_rate_hz / config.hop), room)
        if num_frames < 1:
            return None
        codes_2T, _ = generate_coarse(
            self.backbone, prompt_S, num_frames_min=num_frames, num_frames_max=num_frames,
            temperature=1.0, top_k=SAMPLE_TOP_K, seed=self.run.train.seed,
        )  # fmt: skip
        return self.codec.decode(codes_2T.cpu()[None])[0]

    def validate(self, step: int) -> dict[str, float]:  # noqa: ARG002
        """Return nats per level of every unseen split, and what the right lyrics are worth.

        "gap" is the loss with another song's lyrics minus the loss with the right ones, paired by
        song, with its standard error.
        """
        values: dict[str, float] = {}
        for split, examples in self.valid.items():
            rights, wrongs = [], []
            partners = partner_lyrics(examples)
            for index, example in enumerate(examples):
                right = self._song_losses(self.valid_prompt(split, index), example)
                rights.append(right)
                prompt = self.valid_prompt(split, index, partners[index])
                if partners[index] is not None and self._has_room(prompt, example):
                    wrong = self._song_losses(prompt, example)
                    wrongs.append({name: wrong[name] - right[name] for name in right})
            for name in ("level_0", "level_1", "loss") if rights else ():
                values[f"{split}/{name}"] = float(np.mean([song[name] for song in rights]))
            for name, short in (("loss", "gap"), ("level_0", "gap_0")):
                gap, error = gap_with_error([song[name] for song in wrongs])
                values[f"{split}/{short}"], values[f"{split}/{short}_se"] = gap, error
        return values

    def valid_prompt(self, split: str, index: int, lyrics: str | None = None) -> list[int]:
        """Return the prompt of a validation song, perhaps with other lyrics."""
        example = self.valid[split][index]
        return self.prompts.build(example, lyrics=lyrics)

    def baselines(self) -> dict[str, float]:
        """Return what counting alone reaches on the unseen splits, in nats per level."""
        train = [example.codes_QT for example in self.examples]
        size = self.run.model.layout.codebook_size
        values = {}
        for split, examples in self.valid.items():
            test = [example.codes_QT for example in examples]
            for level in range(COARSE_LEVELS) if test else ():
                values[f"{split}/unigram_{level}"] = unigram_nats(train, test, level, size)
                values[f"{split}/bigram_{level}"] = bigram_nats(train, test, level, size)
        return values

    def compile(self) -> None:
        """Compile each layer: the lengths of batches differ, and only layers are worth it.

        Layers that are watched stay as they are: compiled ones cannot be looked into.
        """
        task = self.run.task
        watched = {*(task.alignment_layers if task.alignment else ())}
        watched |= {task.lessons_layer} if task.lessons else set()
        for index, layer in enumerate(self.backbone.layers):
            if index not in watched:
                layer.compile(dynamic=True)

    def export(self, folder: Path) -> Path:
        if self.tuning is not None:
            return self.tuning.export(folder)
        self.backbone.save(folder / "backbone")
        self.tokenizer.save(folder / "tokenizer.json")
        return folder

    def _has_room(self, prompt: list[int], example: CodesExample) -> bool:
        """Say whether a song fits under the lyrics of another."""
        length = len(prompt) + COARSE_LEVELS * example.num_frames + 1
        return length <= self.run.model.max_positions

    def _song_losses(self, prompt: list[int], example: CodesExample) -> dict[str, float]:
        """Return the losses of one song alone."""
        batch = self.collate([(prompt, example)])
        device = next(self.backbone.parameters()).device
        losses = self._next_token(on_device(batch, device))
        return {name: float(value) for name, value in losses.items()}

    def _next_token(self, batch: Batch) -> dict[str, Tensor]:
        return next_token_losses(
            self.backbone,
            batch["tokens_BS"],
            batch["loss_mask_BS"],
            full_vocabulary=self.run.task.full_vocabulary,
            lengths=batch["lengths"],
        )

    def _sung(self, prompt: Sequence[int], example: CodesExample) -> Tensor:
        """Return where the watched head should look, as :meth:`WatchedHead.loss` wants it.

        Positions count from the start of the stream, which is 0.
        """
        layout = self.run.model.layout
        spans = word_spans(prompt, example.words, layout, self.tokenizer)
        if not spans:
            return torch.zeros(0, 4, dtype=torch.int64)
        letters_N3 = torch.from_numpy(
            letters_sung(
                example.words,
                spans,
                num_frames=example.num_frames,
                duration_s=example.duration_s,
            )
        )
        # Both codes of a frame are predicted, each from the position before it.
        query_N2 = len(prompt) - 1 + COARSE_LEVELS * letters_N3[:, :1] + torch.arange(COARSE_LEVELS)
        letters_N3 = letters_N3.repeat_interleave(COARSE_LEVELS, dim=0)
        start_N = torch.zeros(len(letters_N3), dtype=torch.int64)
        return torch.stack((start_N, query_N2.flatten(), letters_N3[:, 1], letters_N3[:, 2]), dim=1)

    def _taught(
        self, start: int, prompt: Sequence[int], example: CodesExample, lessons: Lessons
    ) -> Tensor:
        """Return [T, 5]: position from which the frame is predicted, what `Lessons` reads."""
        targets_T4 = lessons.targets(example)
        query_T = start + len(prompt) - 1 + COARSE_LEVELS * torch.arange(len(targets_T4))
        return torch.cat((query_T[:, None], targets_T4), dim=1)

    def _prompts(self, examples: Sequence[CodesExample]) -> Prompts:
        run = self.run
        return Prompts(
            examples, run.task.prompts, run.model.layout, self.tokenizer, seed=run.train.seed
        )

    def _length(self, prompts: Prompts, index: int) -> int | None:
        """Return the length of a song's stream; None if it is not to be trained on."""
        example, longest = prompts.examples[index], prompts.longest(index)
        limit_s = self.run.task.max_duration_s
        if longest is None or (limit_s is not None and example.duration_s > limit_s):
            return None
        length = longest + COARSE_LEVELS * example.num_frames + 1
        fits = length <= min(self.run.model.max_positions, self.run.task.tokens_per_batch)
        return length if fits else None


def gap_with_error(differences: Sequence[float]) -> tuple[float, float]:
    """Return the mean of paired differences and its standard error; NaN where undefined."""
    if not differences:
        return float("nan"), float("nan")
    if len(differences) == 1:
        return differences[0], float("nan")
    return (
        float(np.mean(differences)),
        float(np.std(differences, ddof=1) / np.sqrt(len(differences))),
    )


def coarse_vectors(codec: Codec) -> list[Tensor]:
    """Return what the codes of the coarse levels are chosen by: [K, C] of each."""
    quantizer = codec.quantizer
    keys = quantizer.codebooks[0] if quantizer.keys is None else quantizer.keys
    return [keys, *quantizer.codebooks[1:COARSE_LEVELS]]
