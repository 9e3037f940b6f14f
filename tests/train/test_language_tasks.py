"""The tasks of the backbone and of super-resolution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from khala.backbone import Backbone, next_token_losses
from khala.corpus import open_codes
from khala.errors import ConfigError
from khala.recipes import backbone_debug, backbone_full, superres_debug, superres_full
from khala.superres import SuperResolution
from khala.tokens import TextTokenizer, deinterleave
from khala.train.baselines import bigram_nats, unigram_nats
from khala.train.prompts import partner_lyrics
from khala.train.tasks.backbone import BackboneTask, gap_with_error
from khala.train.tasks.superres import SuperResTask
from khala.train.watch import Watched


def backbone_task(codes_dir: Path) -> BackboneTask:
    return BackboneTask(backbone_debug(), open_codes(codes_dir), TextTokenizer.bytes())


def superres_task(codes_dir: Path, **task: object) -> SuperResTask:
    run = superres_debug()
    run = replace(run, task=replace(run.task, **task))  # type: ignore[arg-type]
    return SuperResTask(run, open_codes(codes_dir), TextTokenizer.bytes())


def test_a_batch_is_prompt_then_audio_then_the_end(codes_dir: Path) -> None:
    """Scoring a prompt, or not scoring the end, gives a model that never stops singing."""
    task = backbone_task(codes_dir)
    batch, layout = task.batch(0, 0), task.run.model.layout
    start = 0
    for index, length in zip(task.plan.at(0), batch["lengths"], strict=True):
        prompt = task.prompts.drawn(index, 0, 0)
        codes_QT = task.examples[index].codes_QT
        audio, end = start + len(prompt), start + length - 1
        tokens_S, scored_S = batch["tokens_BS"][0], batch["loss_mask_BS"][0]
        assert tokens_S[start:audio].tolist() == prompt
        sung = deinterleave(tokens_S[None, audio:end], layout, num_levels=2)
        np.testing.assert_array_equal(sung[0], codes_QT[:2])
        assert tokens_S[end] == layout.control.end_of_text
        assert scored_S[start : end + 1].nonzero()[:, 0].tolist() == [*range(len(prompt), length)]
        start = end + 1
    assert start == batch["tokens_BS"].shape[1]
    assert len(batch["lengths"]) > 1


def test_songs_of_a_batch_have_no_influence_on_each_other(codes_dir: Path) -> None:
    """A song that hears its neighbour learns to quote it. Proved by gradients, not by outputs."""
    task = backbone_task(codes_dir)
    songs = [(task.prompts.ids(index), task.examples[index]) for index in range(3)]
    batch = task.collate(songs)
    with Watched(task.backbone.embed) as rows:
        hidden_1SD = task.backbone.hidden(batch["tokens_BS"], lengths=batch["lengths"])
    streams = hidden_1SD[0].split(batch["lengths"])
    for place, stream in enumerate(streams):
        (grad_1SD,) = torch.autograd.grad(stream.square().sum(), rows.output, retain_graph=True)
        moved = [bool(part.any()) for part in grad_1SD[0].split(batch["lengths"])]
        assert moved == [other == place for other in range(3)]
    together = next_token_losses(
        task.backbone, batch["tokens_BS"], batch["loss_mask_BS"], lengths=batch["lengths"]
    )["loss"]
    each = [task.collate([song]) for song in songs]
    alone = [task.losses(one, 0)["loss"] * one["loss_mask_BS"].sum() for one in each]
    torch.testing.assert_close(together, sum(alone) / batch["loss_mask_BS"].sum())


@pytest.mark.parametrize("levels", [[2, 2, 2], [5, 2, 3], [0, 0, 0]])
def test_padded_songs_have_no_influence_on_each_other(codes_dir: Path, levels: list[int]) -> None:
    """Two-sided attention sees everything that is not hidden from it, padding too."""
    task = superres_task(codes_dir)
    songs = [
        (task.prompts.ids(index), task.examples[index].codes_QT[:, : 40 + 9 * index])
        for index in range(3)
    ]
    model = task.superres
    batch = task.collate(songs, levels)
    with Watched(model.embed) as rows:
        losses = task.losses(batch, 0)
    (grad_BPD,) = torch.autograd.grad(losses["loss"], rows.output)
    for row, (prompt, _) in enumerate(songs):
        assert bool(grad_BPD[row, : len(prompt)].any())
        assert not bool(grad_BPD[row, len(prompt) :].any()), "padding is heard"
    frames_B = batch["num_frames_B"]
    alone = [
        task.losses(task.collate([song], [level]), 0)["loss"] * frames
        for song, level, frames in zip(songs, levels, frames_B, strict=True)
    ]
    torch.testing.assert_close(losses["loss"], sum(alone) / frames_B.sum())


@pytest.mark.parametrize("make", [backbone_task, superres_task])
def test_batches_depend_only_on_their_address(codes_dir: Path, make: object) -> None:
    """A resumed run that drew other prompts, crops or levels would not be the same run."""
    one, two = make(codes_dir), make(codes_dir)  # type: ignore[operator]
    for step in (7, 3):
        one.batch(step, 0)
    a, b = one.batch(5, 0), two.batch(5, 0)
    for name in a:
        same = (
            torch.equal(a[name], b[name])
            if isinstance(a[name], torch.Tensor)
            else a[name] == b[name]
        )
        assert same, name


def test_every_way_of_asking_is_trained(codes_dir: Path) -> None:
    """A user may give tags, a sentence, or nothing; each must have been seen."""
    task = backbone_task(codes_dir)
    drawn = {tuple(task.prompts.drawn(0, step, 0)) for step in range(60)}
    assert len(drawn) == 3


def test_right_lyrics_beat_wrong_ones_after_learning(codes_dir: Path) -> None:
    """The gap is how anyone sees that a model listens to its lyrics at all."""
    run = backbone_debug()
    run = replace(run, task=replace(run.task, tokens_per_batch=512))
    task = BackboneTask(run, open_codes(codes_dir), TextTokenizer.bytes())
    optimiser = torch.optim.AdamW(task.model.parameters(), lr=2e-2)
    task.valid = {"test": task.examples[:4]}
    for step in range(40):
        task.losses(task.batch(step, 0), step)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    task.model.eval()
    with torch.no_grad():
        values = task.validate(0)
    baselines = task.baselines()
    assert values["test/gap"] > 0.05
    assert values["test/level_0"] < baselines["test/unigram_0"]
    assert {"test/level_1", "test/gap_se", "test/gap_0"} <= values.keys()


def test_songs_that_do_not_fit_are_counted_out_loud(codes_dir: Path) -> None:
    """Songs dropped in silence are a corpus smaller than its owner believes."""
    run = backbone_debug()
    run = replace(run, task=replace(run.task, max_duration_s=0.5))
    said: list[str] = []
    with pytest.raises(ConfigError, match="none of 8 train songs is short enough"):
        BackboneTask(run, open_codes(codes_dir), TextTokenizer.bytes(), say=said.append)
    assert said == ["8 of 8 songs are too long and left out"]


@pytest.mark.parametrize("kind", ["backbone", "superres"])
def test_unseen_songs_that_do_not_fit_are_not_measured(codes_dir: Path, kind: str) -> None:
    """A run must not end at its first validation because one unseen song is long."""
    codes, tokenizer = open_codes(codes_dir), TextTokenizer.bytes()
    make, whole = {
        "backbone": (BackboneTask, backbone_debug()),
        "superres": (SuperResTask, superres_debug()),
    }[kind]
    whole = replace(whole, task=replace(whole.task, num_valid_songs=2))  # type: ignore[attr-defined, type-var]
    first, second = codes.split("test")
    task = make(whole, codes, tokenizer)  # type: ignore[operator]
    assert task.valid["test"] == [first, second]
    prompt = task._prompts([first]).longest(0)
    room = prompt + {"backbone": 2, "superres": 1}[kind] * first.num_frames + 1
    small = replace(whole, model=replace(whole.model, max_positions=room))  # type: ignore[attr-defined, type-var]
    task = make(small, codes, tokenizer)  # type: ignore[operator]
    assert task.valid["test"] == [first]
    with torch.no_grad():
        values = task.validate(0)
    assert np.isfinite(values["test/loss" if kind == "backbone" else "test/level_2"])


def test_superres_starts_from_the_backbone(codes_dir: Path) -> None:
    """The paper's second finding: from nothing, words come out a third worse."""
    backbone = Backbone(backbone_debug().model, seed=3)
    task = SuperResTask(
        superres_debug(), open_codes(codes_dir), TextTokenizer.bytes(), start=backbone
    )
    ours, theirs = task.model.state_dict(), backbone.state_dict()
    name = "layers.1.mlp.up_proj.weight"
    assert torch.equal(ours[name], theirs[name])


def test_superres_goes_on_from_itself(codes_dir: Path) -> None:
    """A second stage must keep what the first one learned, tables and biases too."""
    run, codes, tokenizer = superres_debug(), open_codes(codes_dir), TextTokenizer.bytes()
    before = SuperResolution(run.model, seed=5)
    task = SuperResTask(run, codes, tokenizer, start=before)
    for name, tensor in before.state_dict().items():
        assert torch.equal(task.model.state_dict()[name], tensor), name
    other = replace(run, model=replace(run.model, factor_rank=5))
    with pytest.raises(ConfigError, match="another shape"):
        SuperResTask(other, codes, tokenizer, start=before)


@pytest.mark.parametrize("mixed", [True, False])
def test_both_tasks_and_every_level_come_up(codes_dir: Path, mixed: bool) -> None:
    """A level that was never a target stays noise in every song."""
    task = superres_task(codes_dir, mixed_levels=mixed, task_0_ratio=0.3)
    batches = [task.batch(step, 0) for step in range(150)]
    num_task_0 = sum(not any(batch["levels"]) for batch in batches)
    assert 25 <= num_task_0 <= 65
    levels = {level for batch in batches for level in batch["levels"]}
    assert min(levels) == 0
    assert max(levels) <= 63
    assert 1 not in levels
    assert len(levels) > 40
    shapes = {len(set(batch["levels"])) for batch in batches}
    assert (max(shapes) > 1) == mixed


def test_low_levels_can_be_drawn_more_often(codes_dir: Path) -> None:
    """The first fine levels carry most of what is heard."""
    plain, low = superres_task(codes_dir), superres_task(codes_dir, level_power=1.0)
    draws = [(i + 0.5) / 1000 for i in range(1000)]
    counts = [[task._level(value) for value in draws] for task in (plain, low)]
    assert {min(count) for count in counts} == {2}
    assert {max(count) for count in counts} == {63}
    assert np.bincount(counts[0])[2] == pytest.approx(1000 / 62, abs=1)
    assert np.bincount(counts[1])[2] > 5 * np.bincount(counts[1])[20]


def test_levels_are_drawn_by_the_chances_given(codes_dir: Path) -> None:
    """An arm of an experiment that draws other levels than it says compares nothing."""
    chances = (3.0, 0.0, 1.0) + (0.0,) * 59
    task = superres_task(codes_dir, level_power=1.0, level_chances=chances)
    counts = np.bincount([task._level((i + 0.5) / 1000) for i in range(1000)], minlength=64)
    assert counts[[2, 4]].tolist() == [750, 250]
    for wrong in ((1.0,) * 61, (-1.0,) + (1.0,) * 61, (0.0,) * 62):
        with pytest.raises(ConfigError, match="level_chances"):
            superres_task(codes_dir, level_chances=wrong)


def test_crops_keep_the_prompt_and_cut_the_frames(codes_dir: Path) -> None:
    """A crop must be a part of the song, the same at every level."""
    task = superres_task(codes_dir, crop_frames=9, task_0_ratio=0.0)
    batch = task.batch(4, 0)
    assert batch["codes_BQT"].shape[2] == 9
    for row, index in enumerate(task.plan.at(4)):
        whole = task.examples[index].codes_QT[: batch["codes_BQT"].shape[1]].astype(np.int64)
        cut = batch["codes_BQT"][row].numpy()
        assert any((whole[:, s : s + 9] == cut).all() for s in range(whole.shape[1] - 8))


def test_superres_learns_a_level_that_follows_from_those_below(codes_dir: Path) -> None:
    """If the sum of lower levels were not seen, no fine level could be learned."""
    task = superres_task(codes_dir)
    batch = task.collate([(task.prompts.ids(0), task.examples[0].codes_QT)], [2])
    optimiser = torch.optim.AdamW(task.model.parameters(), lr=1e-2)
    losses = []
    for step in range(20):
        loss = task.losses(batch, step)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        values = task.validate(0)
    assert {"test/task_0", "test/level_2", "test/level_63", "test_words/level_2"} <= values.keys()
    assert task.baselines().keys() <= {key.replace("level", "unigram") for key in values}


def test_baselines_equal_slow_ones() -> None:
    """A baseline that is too weak makes a bad model look good."""
    generator = np.random.default_rng(0)
    songs = [np.cumsum(generator.integers(0, 2, (2, 50)), axis=1) % 8 for _ in range(30)]
    train, test = songs[:20], songs[20:]
    counts = np.ones(8)
    for song in train:
        for code in song[0]:
            counts[code] += 1
    slow = -np.mean([np.log(counts[code] / counts.sum()) for song in test for code in song[0]])
    assert unigram_nats(train, test, 0, 8) == pytest.approx(slow)
    # The next code is the last one or one more: log 2, plus the first frame's surprise.
    assert bigram_nats(train, test, 0, 8) == pytest.approx(np.log(2), abs=0.08)
    assert bigram_nats(train, test, 1, 8) > 1.5, "level 1 does not depend on level 0 here"


def test_nobody_gets_their_own_words_when_lyrics_are_shuffled(codes_dir: Path) -> None:
    """A pair with the same words would hide the gap."""
    examples = open_codes(codes_dir).examples
    for example, other in zip(examples, partner_lyrics(examples), strict=True):
        assert other != example.lyrics
        assert (other is None) or not example.instrumental
    assert gap_with_error([1.0, 3.0]) == (2.0, pytest.approx(1.0))
    assert np.isnan(gap_with_error([])[0])


def test_the_full_recipes_are_the_published_models() -> None:
    """Weights of another shape could never be compared with the published ones."""
    runs = backbone_full(), superres_full()
    with torch.device("meta"):
        models = Backbone(runs[0].model), SuperResolution(runs[1].model)
    counts = [sum(p.numel() for p in model.parameters()) / 1e9 for model in models]
    assert counts == pytest.approx([1.616, 1.876], abs=0.001)
    trunk = sum(p.numel() for p in models[0].layers.parameters()) / 1e9
    assert trunk == pytest.approx(1.082, abs=0.001)
    assert runs[0].task.tokens_per_batch == runs[0].model.max_positions == 16_384
    assert runs[1].task.positions_per_batch == runs[1].model.max_positions == 8192
    assert {run.train.num_parts for run in runs} == {256}
