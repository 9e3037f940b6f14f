"""Training a codec of the published kind, with its adversary, from recipe to model folder."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from khala.checkpoint import load_tensors
from khala.codec import Codec, ConvConfig, QuantizerConfig
from khala.codec.adversary import AdversaryConfig
from khala.codec.discriminator import Discriminator, DiscriminatorConfig
from khala.codec.objective import CodecObjective, CodecObjectiveConfig
from khala.corpus import Corpus, CorpusSong
from khala.errors import ConfigError, StageError
from khala.recipes import codec_conv_debug, codec_full
from khala.train import TrainConfig, TrainState, train
from khala.train.adversary import AdversaryUpdates
from khala.train.hooks import Checkpoints, Hook, read_log
from khala.train.run import CODEC_RECIPES, train_codec
from khala.train.tasks.codec import CodecTask, CodecTaskConfig

RATE_HZ = 44_100
TINY_ADVERSARY = AdversaryConfig(
    discriminator=DiscriminatorConfig(fft_sizes=(62, 127), width=3), balance=True, lr=1e-3
)


def wave_of(path: Path, seconds: float = 1.0) -> np.ndarray:
    """Return a chord whose notes come and go."""
    generator = np.random.default_rng(int(path.stem))
    time_N = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave_CN = np.zeros((2, len(time_N)))
    for hz in generator.uniform(100, 2000, 4):
        swell_N = 1 + np.sin(2 * math.pi * generator.uniform(0.5, 3) * time_N)
        wave_CN += (
            generator.uniform(0.02, 0.1, (2, 1)) * swell_N * np.sin(2 * math.pi * hz * time_N)
        )
    return wave_CN.astype(np.float32)


@pytest.fixture
def corpus() -> Corpus:
    songs = [
        CorpusSong(
            id=str(index),
            split="train",
            duration_s=1.0,
            tags=(),
            description="",
            lyrics="",
            instrumental=True,
            language="en",
            audio={"mix": Path(str(index))},
            truth_path=None,
        )
        for index in range(4)
    ]
    return Corpus(Path(), songs, read_whole=wave_of)


def config_of(**more: object) -> CodecTaskConfig:
    """The tiny recipe, tinier, with every part begun by the second step."""
    task = codec_conv_debug().task
    codec = replace(
        task.codec,
        hop=256,
        conv=ConvConfig(
            encoder_filters=2,
            encoder_strides=(4, 8, 8),
            decoder_filters=2,
            decoder_strides=(8, 8, 4),
        ),
        quantizer=QuantizerConfig(num_levels=4, codebook_size=16, latent_width=8),
    )
    values = {
        "codec": codec,
        "adversary": replace(TINY_ADVERSARY, start_step=2),
        "quantize_from": 1,
        "fit_vectors": 64,
        "clip_frames": 16,
        "validation_depths": (2, 4),
    }
    return replace(task, **values | more)  # type: ignore[arg-type]


LOOP = TrainConfig(
    num_steps=6,
    num_parts=2,
    lr=1e-3,
    schedule="exponential",
    decay_rate=0.9,
    warmup_steps=1,
    precision="float32",
)


def task_of(corpus: Corpus, config: CodecTaskConfig, **more: object) -> CodecTask:
    return CodecTask(
        config,
        corpus,
        seed=0,
        num_parts=LOOP.num_parts,
        train=LOOP,
        **more,  # type: ignore[arg-type]
    )


class Stop(Hook):
    """Ends a run at a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, state: TrainState, losses: dict[str, Tensor]) -> None:  # noqa: ARG002
        if state.step == self.step:
            state.stopped = "signal"


def everything(state: TrainState) -> dict[str, Tensor]:
    return {
        **{f"model.{name}": tensor for name, tensor in state.task.model.state_dict().items()},
        **{f"average.{name}": tensor for name, tensor in state.average.tensors.items()},
        **{f"moment.{name}": tensor for name, tensor in state.optimiser.state_tensors().items()},
        **{f"extra.{name}": tensor for name, tensor in state.task.extra_state().items()},
    }


def test_a_resumed_run_has_the_same_adversary(corpus: Corpus, tmp_path: Path) -> None:
    """A codec that goes on against a discriminator that begins anew unlearns for a day."""
    states = {}
    for name, stops in (("whole", [9]), ("cut", [2, 4, 9])):
        (tmp_path / name).mkdir()
        for stop in stops:  # before the adversary begins, and after
            task, hooks = task_of(corpus, config_of()), [Stop(stop), Checkpoints()]
            states[name] = train(task, LOOP, tmp_path / name, hooks=hooks)
    one, two = everything(states["whole"]), everything(states["cut"])
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key
    kinds = {name.split(".")[1] for name in one if name.startswith("extra.")}
    assert kinds == {"weights", "moments", "balance"}


def test_the_adversary_follows_the_schedule_and_the_mean_of_the_parts(corpus: Corpus) -> None:
    """With its own rate left high it wins, and the codec chases artefacts to the end of the run."""
    rates, first = [], task_of(corpus, config_of())
    assert first.updates is not None
    inner = first.updates._inner
    for step in range(4):
        first.losses(first.batch(step, 0), step)
        first.clip()
        first.after_update(step + 1)
        rates.append(inner.param_groups[0]["lr"])
    # The codec's: warm-up at step 0, then .9 a step; the adversary begins at step 2.
    assert rates[2:] == [pytest.approx(1e-3 * 0.9**power) for power in (1, 2)]
    ended = []
    for parts in (1, 3):
        updates = task_of(corpus, config_of()).updates
        assert isinstance(updates, AdversaryUpdates)
        made_BCN, wave_BCN = torch.rand(2, 1, 2, 512, generator=torch.Generator().manual_seed(0))
        for _ in range(parts):
            updates.adversary._teach(made_BCN, wave_BCN)
        updates.clip()
        updates.step(0)
        ended.append(updates.state_tensors())
    for key, value in ended[0].items():
        torch.testing.assert_close(value, ended[1][key], rtol=1e-4, atol=1e-7)


def test_without_an_adversary_nothing_is_kept(corpus: Corpus) -> None:
    """Checkpoints of runs that have none must go on as they are."""
    task = task_of(corpus, config_of(adversary=None))
    task.load_extra_state({})
    assert task.extra_state() == {}
    terms = task.losses(task.batch(0, 0), 3)
    assert not {"adversarial", "features", "discriminator"} & set(terms)


def test_a_decoder_trained_on_against_an_adversary_keeps_every_code(
    corpus: Corpus, tmp_path: Path
) -> None:
    """Songs and language models of the old codec would otherwise be lost to the new one."""
    config = config_of(adversary=TINY_ADVERSARY, decoder_only=True)
    whole = replace(config, decoder_only=False, adversary=None)
    old = Codec.from_pretrained(task_of(corpus, whole).export(tmp_path / "old"))
    task = task_of(corpus, config, init=old)
    before = {name: value.clone() for name, value in task.extra_state().items()}
    (tmp_path / "run").mkdir()
    state = train(task, LOOP, tmp_path / "run")
    assert state.step == LOOP.num_steps
    new = Codec.from_pretrained(task.export(tmp_path / "new"))
    assert old.codes_digest() == new.codes_digest()
    before_too = old.state_dict()
    for name, value in new.state_dict().items():
        assert name.startswith("decoder.") or torch.equal(value, before_too[name]), name
    assert not torch.equal(new.decoder.model[0].bias, old.decoder.model[0].bias)  # type: ignore[index,union-attr,operator]
    after = task.extra_state()
    still = {name for name, value in before.items() if torch.equal(value, after[name])}
    # While no score is beyond 1, recordings and copies push this bias alike.
    assert all(name.endswith("scores.bias") for name in still)


class Poisoned(CodecTask):
    """One crop of one step is not a recording."""

    def losses(self, batch: dict[str, Any], step: int) -> dict[str, Tensor]:
        if step == 3 and batch["number"] % 2:
            batch = {**batch, "mix": batch["mix"] / 0.0}
        return super().losses(batch, step)


class Watch(Hook):
    """Keeps what a run was made of after each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def after_step(self, state: TrainState, losses: dict[str, Tensor]) -> None:  # noqa: ARG002
        self.steps.append({name: value.clone() for name, value in everything(state).items()})


def test_a_number_that_is_not_finite_moves_nothing(corpus: Corpus, tmp_path: Path) -> None:
    """One bad file must cost one message, not the discriminator and the codebooks."""
    task = Poisoned(config_of(), corpus, seed=0, num_parts=2, train=LOOP)
    watch = Watch()
    state = train(task, replace(LOOP, on_nonfinite="skip"), tmp_path, hooks=[watch])
    before, skipped, after = watch.steps[2:5]
    assert state.step == LOOP.num_steps
    assert all(torch.equal(before[name], value) for name, value in skipped.items())
    assert all(bool(torch.isfinite(value.float()).all()) for value in watch.steps[-1].values())
    moved = {name for name, value in after.items() if not torch.equal(skipped[name], value)}
    assert any("extra.weights" in name for name in moved)
    assert any("quantizer.codebooks" in name for name in moved)


def test_the_discriminator_s_own_gradient_is_judged(corpus: Corpus, tmp_path: Path) -> None:
    """It could be lost while the codec's loss still looks well."""

    class Broken(CodecTask):
        def clip(self) -> float:
            return math.nan

    task = Broken(config_of(), corpus, seed=0, num_parts=2, train=LOOP)
    with pytest.raises(StageError, match=r"step 0: loss .*not finite; the weights were not moved"):
        train(task, LOOP, tmp_path)


def test_what_cannot_be_is_refused(corpus: Corpus) -> None:
    """An adversary that starts too early, or hears nothing, is found out before hours of work."""
    with pytest.raises(ConfigError, match="quantize_from"):
        config_of(quantize_from=3)
    with pytest.raises(ConfigError, match="too few for the adversary's STFT of 2296"):
        config_of(clip_frames=8, adversary=AdversaryConfig(start_step=2))
    with pytest.raises(ConfigError, match="fit_iterations"):
        config_of(fit_iterations=0)
    with pytest.raises(ConfigError, match="schedule"):
        CodecTask(config_of(), corpus, seed=0)


def test_from_a_folder_of_songs_to_a_codec(tmp_path: Path) -> None:
    """Who trains the published kind of codec on their own songs ends with one that plays."""
    for index in range(4):
        soundfile.write(tmp_path / f"{index}.wav", wave_of(Path(str(index)), 1.5).T, RATE_HZ)
    words = ["train.num_steps=28", "train.log_every=1", "task.clip_frames=4"]
    folder = train_codec(tmp_path, tmp_path / "run", "conv-debug", words)
    rows = [row for row in read_log(tmp_path / "run") if "loss" in row]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    first, last = (np.mean([row["mel"] for row in part]) for part in (rows[:3], rows[-5:]))
    assert last < 0.5 * first
    judged = [row["step"] for row in rows if "discriminator" in row]
    assert judged == list(range(13, 29))
    names = set(load_tensors(folder / "codec"))
    assert names == set(Codec(codec_conv_debug().task.codec).state_dict())
    codec = Codec.from_pretrained(folder)
    wave_BCN = torch.from_numpy(wave_of(Path("7")))[None]
    codes_BQT = codec.encode(wave_BCN)
    assert codes_BQT.shape == (1, 64, 22)
    assert bool(torch.isfinite(codec.decode(codes_BQT)).all())


def test_only_directions_of_weights_decay(corpus: Corpus) -> None:
    """Decaying the lengths of weight-normed weights pulls the published codec towards silence."""
    task = task_of(corpus, config_of())
    roles = {name: task.role(name, value) for name, value in task.model.named_parameters()}
    assert {name for name, role in roles.items() if role == "matrix"} == {
        name for name in roles if name.endswith("weight_v")
    }


def test_the_full_recipe_is_the_published_codec() -> None:
    """Weeks of a large machine would go into another model than the paper's."""
    run = CODEC_RECIPES["full"]()
    assert run == codec_full()
    with torch.device("meta"):
        objective = CodecObjective(run.task.codec, run.task.objective)
        assert run.task.adversary is not None
        discriminator = Discriminator(run.task.adversary.discriminator, run.task.codec.channels)
    counts = [
        sum(parameter.numel() for parameter in part.parameters()) / 1e6
        for part in (objective.codec.encoder, objective.codec.decoder, discriminator)
    ]
    assert counts == [pytest.approx(78.6, abs=0.1), pytest.approx(177.7, abs=0.1), 11.926544]
    assert objective.codec.quantizer.codebooks.shape == (64, 1024, 128)
    assert objective.codec.quantizer.bases is None
    assert objective.codec.quantizer.keys is None
    sizes = run.task.adversary.discriminator.fft_sizes
    assert sizes == (78, 126, 206, 334, 542, 876, 1418, 2296)
    assert (run.task.objective.decay, run.task.objective.commitment) == (0.99, 1.0)
    assert (run.task.objective.full_depth, run.task.fit_iterations) == (1.0, 50)
    assert run.train.schedule == "exponential"
    assert run.train.ema_decay > 0


def test_a_run_begun_before_a_setting_existed_goes_on(tmp_path: Path) -> None:
    """An update of the program must not strand a run that is half done."""
    for index in range(2):
        soundfile.write(tmp_path / f"{index}.wav", wave_of(Path(str(index)), 0.6).T, RATE_HZ)
    words = ["train.num_steps=1", "task.clip_frames=4"]
    train_codec(tmp_path, tmp_path / "run", "conv-debug", words)
    path = tmp_path / "run" / "config.json"
    document = json.loads(path.read_text())
    del document["config"]["task"]["fit_iterations"]
    path.write_text(json.dumps(document))
    train_codec(tmp_path, tmp_path / "run", "conv-debug", words)
    with pytest.raises(ConfigError, match="fit_iterations"):
        train_codec(tmp_path, tmp_path / "run", "conv-debug", [*words, "task.fit_iterations=9"])


@torch.no_grad()
def test_plain_levels_revive_their_dead_codes() -> None:
    """Codes of the published quantiser that nobody uses are bits nobody hears."""
    config = config_of().codec
    objective = CodecObjective(config, CodecObjectiveConfig(decay=0.5, revive_every=5))
    wave_BCN = torch.from_numpy(np.stack([wave_of(Path(str(index))) for index in range(4)]))
    wave_BCN = wave_BCN[..., : 128 * config.hop]
    latents_ND = objective.codec.latents(wave_BCN)[0].flatten(0, 1)
    objective.start_quantizer(latents_ND, None, batch=len(latents_ND))
    quantizer = objective.codec.quantizer
    quantizer.codebooks[0, :8] += 3.0
    objective.averages.restart(quantizer, len(latents_ND))
    used = []
    for step in range(1, 21):
        objective(wave_BCN, None, torch.Generator().manual_seed(step))
        used.append(len(objective._seen[0][0].codes_QN[0].unique()))
        objective.after_update(step)
    assert used[0] <= 8
    assert used[-1] >= 14
