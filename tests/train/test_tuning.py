"""Going on from a trained model: with all its weights, or with an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from khala import Khala, SongRequest
from khala.adapter import WEIGHTS, load_adapter
from khala.audio import write_audio
from khala.backbone import Backbone
from khala.checkpoint import digest, load_tensors, resolve_part
from khala.corpus import Word, open_codes
from khala.corpus.tokenise import tokenise_corpus
from khala.errors import ConfigError
from khala.nn.lora import LoraConfig, lora_tensors
from khala.recipes import backbone_debug, superres_debug
from khala.superres import SuperResolution
from khala.tokens import TextTokenizer
from khala.train import Task, TrainState, train
from khala.train.checkpoints import list_checkpoints
from khala.train.hooks import Checkpoints, Hook
from khala.train.run import train_backbone, train_superres
from khala.train.tasks.backbone import BackboneTask
from khala.train.tasks.superres import SuperResTask
from khala.train.tuning import dropping

LORA = LoraConfig(rank=2, dropout=0.3)
BASE = "0" * 64
SHORT = ["train.num_steps=2", "train.validate_every=0", "task.num_valid_songs=1"]


def backbone_task(codes_dir: Path, **task: object) -> BackboneTask:
    run = backbone_debug()
    run = replace(
        run,
        task=replace(run.task, tokens_per_batch=512, lora=LORA, **task),  # type: ignore[arg-type]
        train=replace(run.train, num_steps=6, num_parts=2),
    )
    start = Backbone(run.model, seed=4)
    codes, tokenizer = open_codes(codes_dir), TextTokenizer.bytes()
    return BackboneTask(run, codes, tokenizer, init=start, base=BASE)


def superres_task(codes_dir: Path) -> SuperResTask:
    run = superres_debug()
    run = replace(
        run,
        task=replace(run.task, lora=LORA),
        train=replace(run.train, num_steps=6, num_parts=2),
    )
    start = SuperResolution(run.model, seed=4)
    codes, tokenizer = open_codes(codes_dir), TextTokenizer.bytes()
    return SuperResTask(run, codes, tokenizer, start=start, base=BASE)


class Stop(Hook):
    """Ends a run at a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, state: TrainState, losses: dict[str, torch.Tensor]) -> None:  # noqa: ARG002
        if state.step == self.step:
            state.stopped = "signal"


Make = Callable[[Path], BackboneTask | SuperResTask]


def go(task: BackboneTask | SuperResTask, folder: Path, *hooks: Hook) -> TrainState:
    folder.mkdir(exist_ok=True)
    return train(task, task.run.train, folder, hooks=[*hooks, Checkpoints()])


@pytest.mark.parametrize("make", [backbone_task, superres_task])
def test_resumed_equals_never_stopped(tmp_path: Path, codes_dir: Path, make: Make) -> None:
    """A tuning that changes when the power fails cannot be repeated, dropout or not."""
    whole = go(make(codes_dir), tmp_path / "whole")
    go(make(codes_dir), tmp_path / "cut", Stop(2))
    resumed = go(make(codes_dir), tmp_path / "cut")
    for name, tensor in whole.task.model.state_dict().items():
        assert torch.equal(resumed.task.model.state_dict()[name], tensor), name
    for name, tensor in whole.average.tensors.items():
        assert torch.equal(resumed.average.tensors[name], tensor), name
    moments = resumed.optimiser.state_tensors()
    for name, tensor in whole.optimiser.state_tensors().items():
        assert torch.equal(moments[name], tensor), name


@pytest.mark.parametrize("make", [backbone_task, superres_task])
def test_only_the_change_moves_and_is_kept(tmp_path: Path, codes_dir: Path, make: Make) -> None:
    """A change of a moved model fits no model; and a checkpoint of it should be a small file."""
    before = make(codes_dir).model.state_dict()
    state = go(make(codes_dir), tmp_path / "run")
    moved = {
        name
        for name, tensor in state.task.model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert moved == set(lora_tensors(state.task.model))
    files = list_checkpoints(tmp_path / "run")[-1].glob("*.safetensors")
    kept = [name for path in files for name in load_file(path)]
    assert {name.split(".", 1)[1].split(":")[0] for name in kept} == moved


def test_dropout_is_addressed_and_leaves_no_trace() -> None:
    """A mask from a generator with a state would make a resumed run another run."""
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    with dropping(5):
        first = torch.rand(4)
    with dropping(None):
        assert torch.equal(torch.rand(3), wanted)
    with dropping(5):
        assert torch.equal(torch.rand(4), first)


def test_batches_say_what_is_dropped(codes_dir: Path) -> None:
    """Two steps, or two parts of one, that drop the same numbers drop too little."""
    task = backbone_task(codes_dir)
    seeds = {task.batch(step, part)["dropout_seed"] for step in range(3) for part in range(2)}
    assert len(seeds) == 6


def test_the_watched_head_sees_the_change(codes_dir: Path) -> None:
    """Where words are timed, the change must be told through the head that will be heard."""
    task = backbone_task(codes_dir, alignment=1.0, alignment_layers=(0,))
    example = task.examples[0]
    word = example.lyrics.split()[-1]
    sung = replace(example, words=(Word(word, 0.1, 0.4), Word(word, 0.5, 0.9)))
    losses = task.losses(task.collate([(task.prompts.ids(0), sung)]), 0)
    assert float(losses["alignment_0"].detach()) > 0
    losses["alignment_0"].backward()  # type: ignore[no-untyped-call]
    tensors = lora_tensors(task.backbone)
    gradient = tensors["layers.0.attn.q_proj.lora_B"].grad
    assert gradient is not None
    assert bool(gradient.any())


def test_an_adapter_needs_a_trained_model(tmp_path: Path, codes_dir: Path) -> None:
    """A change of weights that nobody has would be hours for nothing."""
    lora = [*SHORT, 'task.lora={"rank":2}']
    with pytest.raises(ConfigError, match="--init"):
        train_backbone(codes_dir, tmp_path / "a", "debug", lora)
    with pytest.raises(ConfigError, match="--init"):
        train_backbone(codes_dir, tmp_path / "b", "nano-tune")
    backbone = train_backbone(codes_dir, tmp_path / "c", "debug", SHORT)
    with pytest.raises(ConfigError, match="trained superres"):
        train_superres(codes_dir, tmp_path / "d", "debug", lora, init=backbone)
    with pytest.raises(ConfigError, match="of its kind"):
        train_superres(codes_dir, tmp_path / "e", "nano-lora", init=backbone)


def own_songs(folder: Path) -> Path:
    """A folder as a user has one: sound, tags, lyrics, and no truth about anything."""
    folder.mkdir()
    for number in range(3):
        times_N = np.arange(44_100) / 44_100
        wave_CN = 0.3 * np.sin(2 * np.pi * 110 * (number + 2) * times_N)[None].repeat(2, axis=0)
        path = folder / f"song {number}.wav"
        write_audio(path, wave_CN, sample_rate_hz=44_100)
        known = {"tags": ["drone"], "lyrics": "" if number else "[Verse]\nla la la"}
        path.with_suffix(".json").write_text(json.dumps(known))
    return folder


def test_a_users_folder_tunes_both_models(tmp_path: Path, tiny_model: Path) -> None:
    """From a folder of sound to a song in its style, with nothing but what the docs say."""
    codes = tmp_path / "codes"
    tokenise_corpus(own_songs(tmp_path / "songs"), tiny_model, codes)
    for recipe in ("nano-tune", "nano-lora"):
        more = ["task.lora.rank=2"] if recipe == "nano-lora" else []
        made = {
            part: make(codes, tmp_path / recipe / part, recipe, [*SHORT, *more], init=tiny_model)
            for part, make in (("backbone", train_backbone), ("superres", train_superres))
        }
        config = json.loads((tmp_path / recipe / "backbone" / "config.json").read_text())
        assert config["config"]["model"]["trunk"]["width"] == 16, "the shape is the model's"
        if recipe == "nano-tune":
            before = load_tensors(resolve_part(tiny_model, "superres"))
            after = load_tensors(resolve_part(made["superres"], "superres"))
            assert before.keys() == after.keys()
            assert not all(torch.equal(before[name], after[name]) for name in before)
            continue
        for part, folder in made.items():
            assert folder == tmp_path / recipe / part / "adapter"
            assert not (folder.parent / "model").exists()
            assert load_adapter(folder).config.part == part
        model = Khala.from_pretrained(tiny_model, lora=list(made.values()))
        song = model.generate(SongRequest(instrumental=True, duration_s=1.0, levels=4))
        assert song.digests["superres.lora"] == f"{digest(made['superres'])}@1.0"


def test_the_bundled_model_by_its_name(tmp_path: Path, codes_dir: Path) -> None:
    """`--init nano` is what the docs say first; codes of another codec are noise to it."""
    with pytest.raises(ConfigError, match="another codec"):
        train_backbone(codes_dir, tmp_path / "x", "nano-lora", init=Path("nano"))


@pytest.mark.parametrize("make", [train_backbone, train_superres])
def test_the_bundled_model_is_tuned(
    tmp_path: Path, codes_dir: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step from the bundled weights: both models load, learn and leave an adapter."""
    monkeypatch.setattr("khala.train.run._check_codec", lambda *_: None)
    settings = [*SHORT, "train.num_steps=1", "task.prompts.max_tokens=256"]
    folder = make(codes_dir, tmp_path / "run", "nano-lora", settings, init=Path("nano"))
    adapter = load_adapter(folder)
    part = adapter.config.part
    assert adapter.config.base == digest(resolve_part("nano", part))
    assert sum(tensor.numel() for tensor in adapter.tensors.values()) == 299_008
    assert (folder / WEIGHTS).stat().st_size < 1_300_000


def test_tasks_say_what_they_write(codes_dir: Path) -> None:
    """A run that looked for its model where an adapter lies would end in an error."""
    assert backbone_task(codes_dir).product == "adapter"
    plain = Task.__dict__["product"]
    assert plain == "model"
