"""Lessons: what each frame sings, when the next beat comes, and which layer is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from khala.backbone import Backbone
from khala.corpus import CodesDataset, Word, open_codes
from khala.errors import ConfigError
from khala.recipes import backbone_debug, superres_debug
from khala.superres import SuperResolution
from khala.tokens import TextTokenizer
from khala.train.lessons import frames_to_beat, names_in, sounding, tempo_class
from khala.train.tasks.backbone import BackboneRun, BackboneTask
from khala.train.tasks.superres import SuperResTask

BEATS_S = (0.1, 0.4, 0.7)


def run_with_lessons(weight: float = 1.0) -> BackboneRun:
    run = backbone_debug()
    return replace(run, task=replace(run.task, lessons=weight, lessons_layer=0))


def with_truth(codes_dir: Path) -> CodesDataset:
    """Prepared codes whose songs sing the first half of "la", then the second, over a beat."""
    codes = open_codes(codes_dir)
    codes.examples = [
        example
        if example.instrumental
        else replace(
            example,
            phonemes=(Word("L", 0.0, 0.5), Word("AA", 0.5, 1.0)),
            chords=(Word("C", 0.0, 1.0),),
            beats_s=BEATS_S,
        )
        for example in codes
    ]
    return codes


def test_a_frame_sings_what_sounds_in_its_middle() -> None:
    """Phonemes a frame early or late are another phoneme for every tenth frame."""
    sounds = [Word("L", 0.5, 0.84), Word("AA", 0.84, 1.21)]
    sung_T = sounding(sounds, {"AA": 1, "L": 2}, num_frames=20, duration_s=2.0)
    assert sung_T.tolist() == [0] * 5 + [2] * 3 + [1] * 4 + [0] * 8


def test_the_next_beat_is_counted_in_half_frames() -> None:
    """A beat that is never near, or that a song's end makes up, teaches a wrong tempo."""
    left_T = frames_to_beat(BEATS_S, num_frames=20, duration_s=2.0)
    assert left_T.tolist() == [2, 0, 4, 2, 0, 4, 2, 0] + [-1] * 12
    assert frames_to_beat((5.0,), num_frames=100, duration_s=10.0).tolist() == (
        [-1] * 27 + list(range(46, -1, -2)) + [-1] * 49
    )
    assert set(frames_to_beat((), num_frames=3, duration_s=1.0).tolist()) == {-1}


def test_a_tempo_is_known_within_three_percent() -> None:
    """A class too wide would call a song right that drifts; none at all is better than a guess."""
    classes = [tempo_class([0.3 + 60 / bpm * i for i in range(9)]) for bpm in range(52, 180)]
    assert classes == sorted(classes)
    assert len(set(classes)) > 40
    assert tempo_class([0.0, 0.6, 1.2]) - tempo_class([0.0, 0.63, 1.26]) in (1, 2)
    assert tempo_class([0.0, 0.6]) == tempo_class([0.0, 0.1, 0.2]) == -1


def test_only_what_is_known_is_taught(codes_dir: Path) -> None:
    """Songs of one's own have no phonemes: silence must not be taught in their place."""
    task = BackboneTask(run_with_lessons(), with_truth(codes_dir), TextTokenizer.bytes())
    assert task.lessons is not None
    assert (task.lessons.phonemes, task.lessons.chords) == ({"AA": 1, "L": 2}, {"C": 1})
    for example in task.examples:
        sung_T, chord_T, left_T, tempo_T = task.lessons.targets(example).unbind(1)
        bare = task.lessons.targets(replace(example, phonemes=(), chords=(), beats_s=()))
        assert set(bare[:, 1:].flatten().tolist()) == {-1}
        if example.instrumental:
            assert set(sung_T.tolist()) == {0}
            assert {*left_T.tolist(), *chord_T.tolist(), *tempo_T.tolist()} == {-1}
        else:
            assert set(sung_T.tolist()) == {1, 2}
            assert set(chord_T.tolist()) == {1}
            assert set(bare[:, 0].tolist()) == {-1}
    nothing = task.lessons(torch.randn(4, 32), torch.full((4, 4), -1))
    assert [loss.item() for loss in nothing.values()] == [0.0] * 4


def test_the_position_before_a_frame_is_asked(codes_dir: Path) -> None:
    """Asked one position later, the layer reads the answer instead of looking it up."""
    task = BackboneTask(run_with_lessons(), with_truth(codes_dir), TextTokenizer.bytes())
    batch, first_id = task.batch(0, 0), task.run.model.layout.first_id(0)
    query_N = batch["lessons_N5"][:, 0]
    asked_for_N = batch["tokens_BS"][0, query_N + 1]
    assert ((asked_for_N >= first_id) & (asked_for_N < first_id + 1024)).all()
    assert len(query_N) == sum(task.examples[index].num_frames for index in task.plan.at(0))


def test_lessons_are_learned_by_the_layers_below(codes_dir: Path) -> None:
    """Maps that learn alone on a layer that does not change would tell the model nothing."""
    task = BackboneTask(run_with_lessons(), with_truth(codes_dir), TextTokenizer.bytes())
    terms = task.losses(task.batch(0, 0), 0)
    sum(terms[name] for name in ("phoneme", "chord", "beat", "tempo")).backward()  # type: ignore[union-attr]
    told, above = (task.backbone.layers[i].mlp.up_proj.weight.grad for i in (0, 1))
    assert told is not None
    assert told.abs().sum() > 0
    assert above is None
    task.model.zero_grad()
    optimiser = torch.optim.AdamW(task.model.parameters(), lr=1e-2)
    for step in range(30):
        losses = task.losses(task.batch(step, 0), step)
        losses["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
    assert float(losses["phoneme"].detach()) < 0.5 * float(terms["phoneme"].detach())
    assert float(losses["beat"].detach()) < 0.5 * float(terms["beat"].detach())


def test_superres_is_told_of_the_frames_it_writes(codes_dir: Path, tmp_path: Path) -> None:
    """Read from another song's frames, or from padding, a lesson teaches noise."""
    run = superres_debug()
    run = replace(run, task=replace(run.task, lessons=1.0, lessons_layer=0, task_0_ratio=0.0))
    task = SuperResTask(run, with_truth(codes_dir), TextTokenizer.bytes())
    optimiser = torch.optim.AdamW(task.model.parameters(), lr=1e-2)
    first: dict[str, float] = {}
    for step in range(30):
        batch = task.batch(step, 0)
        known_BT = batch["lessons_BT4"][:, :, 0] >= 0
        assert known_BT.sum(1).tolist() == batch["num_frames_B"].tolist()
        losses = task.losses(batch, step)
        losses["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        now = {name: losses[name].item() for name in ("phoneme", "beat")}
        first = first or now
    assert now["phoneme"] < 0.5 * first["phoneme"]
    assert now["beat"] < 0.7 * first["beat"]
    folder = task.export(tmp_path)
    names = SuperResolution.from_pretrained(folder).state_dict().keys()
    assert names == SuperResolution(run.model).state_dict().keys()
    with pytest.raises(ConfigError, match="lessons_layer"):
        replace(run, task=replace(run.task, lessons_layer=9))


def test_the_exported_model_knows_no_lessons(codes_dir: Path, tmp_path: Path) -> None:
    """A model folder with tensors of its training is one that nothing else can load."""
    task = BackboneTask(run_with_lessons(), with_truth(codes_dir), TextTokenizer.bytes())
    folder = task.export(tmp_path)
    names = Backbone.from_pretrained(folder).state_dict().keys()
    assert names == Backbone(task.run.model).state_dict().keys()
    assert names_in(song.phonemes for song in open_codes(codes_dir)) == []
    with pytest.raises(ConfigError, match=r"lessons_layer must lie in 0\.\.1"):
        replace(run_with_lessons(), task=replace(run_with_lessons().task, lessons_layer=2))
