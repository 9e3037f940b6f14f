"""Batches of the codec's task: which songs, which crops."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from khala.codec import Codec
from khala.corpus import CodesDataset, CodesExample, Corpus, CorpusSong, HeldCodes
from khala.corpus.order import indexes
from khala.errors import ConfigError, CorpusError
from khala.recipes import codec_debug
from khala.train.tasks.codec import FIT_STREAM, CodecTask, CodecTaskConfig

NUM_SONGS = 12
NUM_SAMPLES = 3 * 44_100


@lru_cache
def wave_of(path: Path) -> np.ndarray:
    """Return a song that says its number (mean of the left channel) and its time (the right)."""
    noise_N = np.random.default_rng(int(path.name)).normal(size=NUM_SAMPLES)
    noise_N[::2] = -noise_N[1::2]
    ramp_N = np.linspace(0.0, 1.0, NUM_SAMPLES)
    return np.stack([float(path.name) + 0.01 * noise_N, ramp_N]).astype(np.float32)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    songs = [
        CorpusSong(
            id=str(index),
            split="train",
            duration_s=NUM_SAMPLES / 44_100,
            tags=(),
            description="",
            lyrics="",
            instrumental=True,
            language="en",
            audio={"mix": Path(str(index))},
            truth_path=None,
        )
        for index in range(NUM_SONGS)
    ]
    return Corpus(Path(), songs, read_whole=wave_of)


def config_of() -> CodecTaskConfig:
    config = codec_debug().task
    assert config.codec.spectral is not None
    spectral = replace(config.codec.spectral, skip_top_hz=(500.0, 250.0))  # a small PCA
    codec = replace(config.codec, guide=None, spectral=spectral)
    return replace(config, codec=codec, gain_db=0.0)


def task_of(corpus: Corpus, **more: int) -> CodecTask:
    return CodecTask(config_of(), corpus, seed=3, **more)


def songs_of(task: CodecTask, step: int, part: int) -> list[int]:
    mix_BCN = task.batch(step, part)["mix"]
    return [round(value) for value in mix_BCN[:, 0].mean(1).tolist()]


def test_an_epoch_in_parts_meets_every_song_once(corpus: Corpus) -> None:
    """Updates averaged over parts would otherwise hear the same songs again, and miss others."""
    task = task_of(corpus, num_parts=3)
    seen = [song for step in range(2) for part in range(3) for song in songs_of(task, step, part)]
    assert sorted(seen) == list(range(NUM_SONGS))


def test_the_order_of_a_run_without_parts_is_that_of_its_seed(corpus: Corpus) -> None:
    """A run begun by an earlier version goes on with the songs it would have met."""
    task = task_of(corpus)
    for step in (0, 5, 100):
        assert songs_of(task, step, 0) == indexes(3, step, 2, NUM_SONGS)


def test_parts_differ_in_all_that_is_drawn(corpus: Corpus) -> None:
    """Two parts cut at the same places, or at the same depths, would teach half as much."""
    task = task_of(corpus, num_parts=2)
    batches = [task.batch(step, part) for step in range(3) for part in range(2)]
    starts = [value for batch in batches for value in batch["mix"][:, 1, 0].tolist()]
    assert len(set(starts)) == len(starts)
    assert [batch["number"] for batch in batches] == list(range(6))


def test_crops_for_fitting_are_no_batch_of_the_run(corpus: Corpus) -> None:
    """Codebooks fitted to what is trained on next would flatter themselves."""
    task = task_of(corpus, num_parts=4)
    last_of_run = task.batch(FIT_STREAM - 1 - task.config.pca_batches, 3)["number"]
    first_of_fit = task.batch(FIT_STREAM - task.config.pca_batches, 0)["number"]
    assert last_of_run < first_of_fit


def test_speed_counts_frames(corpus: Corpus) -> None:
    """A speed rounded to whole seconds a batch misleads by some per cent for ever."""
    task = task_of(corpus)
    assert task.num_items(task.batch(0, 0)) == task.config.batch_size * task.config.clip_frames


def test_a_better_decoder_keeps_every_code(corpus: Corpus, tmp_path: Path) -> None:
    """Songs and language models of the old codec would otherwise be lost to the new one."""
    old = Codec.from_pretrained(task_of(corpus).export(tmp_path / "old"))
    config = config_of()
    with pytest.raises(ConfigError, match="--init"):
        CodecTask(replace(config, decoder_only=True), corpus, seed=3)
    task = CodecTask(replace(config, decoder_only=True), corpus, seed=3, init=old)
    optimiser = torch.optim.SGD([p for p in task.model.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        batch = task.batch(step, 0)
        task.losses(batch, step)["loss"].backward()
        optimiser.step()
        task.after_update(step + 1)
    new = Codec.from_pretrained(task.export(tmp_path / "new"))
    before, after = old.state_dict(), new.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder"}
    wave_BCN = batch["mix"]
    assert torch.equal(old.encode(wave_BCN), new.encode(wave_BCN))
    assert old.codes_digest() == new.codes_digest()
    other = task_of(corpus).objective.codec
    assert other.codes_digest() != old.codes_digest()  # not yet rounded to 8 bits


def drawn_codes(codec: Codec, names: tuple[str, ...]) -> CodesDataset:
    """Codes as `khala redraw` leaves them; these tell their song and their frame."""
    quantizer = codec.config.quantizer
    examples = []
    for name in names:
        frames = NUM_SAMPLES // codec.config.hop + 1
        codes_QT = np.zeros((quantizer.num_levels, frames), np.uint16)
        codes_QT[0] = np.arange(frames)
        codes_QT[1] = len(examples)
        examples.append(
            CodesExample(
                id=name,
                split="train",
                codes=HeldCodes(codes_QT),
                tags=(),
                description="",
                lyrics="",
                instrumental=True,
                language="en",
                duration_s=3.0,
                truth_path=None,
            )
        )
    return CodesDataset(
        examples,
        num_levels=quantizer.num_levels,
        codebook_size=quantizer.codebook_size,
        codec_digest="",
        digest="",
    )


def test_drawn_codes_lie_under_their_own_sound(corpus: Corpus, tmp_path: Path) -> None:
    """Codes beside another moment teach the decoder to ignore them."""
    old = Codec.from_pretrained(task_of(corpus).export(tmp_path / "old"))
    config = replace(config_of(), decoder_only=True, drawn=0.5)
    drawn = drawn_codes(old, ("2", "5"))
    task = CodecTask(config, corpus, seed=3, init=old, drawn=drawn)
    seen = 0
    for step in range(12):
        batch = task.batch(step, 0)
        for mix_CN, codes_QT in zip(batch["mix"], batch["drawn"], strict=True):
            if int(codes_QT[0, 0]) < 0:
                assert (codes_QT == -1).all()
                continue
            seen += 1
            song, first = (2, 5)[int(codes_QT[1, 0])], int(codes_QT[0, 0])
            start = first * config.codec.hop
            whole_CN = wave_of(Path(str(song)))
            crop_CN = whole_CN[:, start : start + mix_CN.shape[1]]
            np.testing.assert_array_equal(mix_CN.numpy(), crop_CN)
    assert 6 <= seen <= 18
    again = CodecTask(config, corpus, seed=3, init=old, drawn=drawn).batch(11, 0)
    assert torch.equal(again["drawn"], batch["drawn"])


def test_the_decoder_is_given_the_drawn_codes(corpus: Corpus, tmp_path: Path) -> None:
    """Decoded from its own codes, an example would say nothing about drawn ones."""
    old = Codec.from_pretrained(task_of(corpus).export(tmp_path / "old"))
    config = replace(config_of(), decoder_only=True, drawn=1.0)
    task = CodecTask(config, corpus, seed=3, init=old, drawn=drawn_codes(old, ("2",)))
    batch = task.batch(0, 0)
    given: list[torch.Tensor] = []
    task.objective.codec.synthesise = lambda latents: given.append(latents) or batch["mix"]  # type: ignore[assignment,func-returns-value]
    with torch.no_grad():
        terms = task.losses(batch, 0)
    wanted = task.objective.codec.quantizer.decode(batch["drawn"])
    torch.testing.assert_close(given[0].detach(), wanted)
    assert float(terms["sdr_0_250_db"]) == 0.0  # phases that nobody could know are not judged


def test_drawn_codes_that_do_not_belong_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    """An hour of training on another corpus's codes looks like any other."""
    old = Codec.from_pretrained(task_of(corpus).export(tmp_path / "old"))
    config = replace(config_of(), decoder_only=True)
    drawn = drawn_codes(old, ("2",))
    with pytest.raises(ConfigError, match="give both"):
        CodecTask(config, corpus, seed=3, init=old, drawn=drawn)
    with pytest.raises(ConfigError, match="give both"):
        CodecTask(replace(config, drawn=0.5), corpus, seed=3, init=old)
    with pytest.raises(ConfigError, match="decoder_only"):
        replace(config_of(), drawn=0.5)
    strangers = drawn_codes(old, ("stranger",))
    with pytest.raises(CorpusError, match="none of the drawn songs"):
        CodecTask(replace(config, drawn=0.5), corpus, seed=3, init=old, drawn=strangers)
