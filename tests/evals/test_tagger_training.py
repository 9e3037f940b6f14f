"""The tagger must learn to hear, and say honestly how well."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from khala.audio import write_audio
from khala.corpus import Corpus, open_corpus
from khala.errors import CheckpointError, ConfigError, CorpusError
from khala.evals.report import ignore_messages
from khala.evals.tagger import Tagger, TaggerTraining, evaluation, tagger_errors, train_tagger
from khala.evals.tagger.training import _dulled, labels, load_example, names_of, split_songs

RATE_HZ = 44_100
SECONDS = 2.4
TONES_HZ = {"drone": (90.0, 180.0), "flute": (1_100.0, 2_200.0), "bell": (5_000.0, 7_300.0)}
VOICE_HZ = 420.0


@pytest.fixture(scope="module")
def band_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 36 songs of three "instruments", two "styles" (how fast it pulses) and a "voice"."""
    folder = tmp_path_factory.mktemp("tagged") / "corpus"
    folder.mkdir()
    (folder / "corpus.json").write_text(json.dumps({"sample_rate_hz": RATE_HZ, "seed": 0}))
    for index in range(36):
        _write_song(folder, index, "train" if index < 26 else ("test", "test_voice")[index % 2])
    return folder


def play(parts: tuple[str, ...], style: str = "fast", sings: bool = True) -> np.ndarray:
    """Return all of a song's parts from its beginning to its end, [2, N]."""
    times_N = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    wave_N = np.random.default_rng(0).normal(0, 0.002, times_N.size)
    for part in (*parts, *(["vocals"] if sings else [])):
        wave_N += _part(part, times_N)
    return np.tile(_pulsing(wave_N, times_N, style), (2, 1)).astype(np.float32)


def _part(name: str, times_N: np.ndarray) -> np.ndarray:
    """Return an instrument's tones, or a voice's with its vibrato."""
    vibrato_N = (name == "vocals") * 3 * np.sin(2 * np.pi * 6 * times_N)
    tones = TONES_HZ.get(name, (VOICE_HZ,))
    return np.sum(
        [0.08 * np.sin(2 * np.pi * hz * times_N + vibrato_N * 2 * np.pi) for hz in tones], axis=0
    )


def _pulsing(wave_N: np.ndarray, times_N: np.ndarray, style: str) -> np.ndarray:
    """Return a song that swells as often as its style says."""
    return wave_N * (0.55 + 0.45 * np.sin(2 * np.pi * (9.0 if style == "fast" else 1.5) * times_N))


def _write_song(folder: Path, index: int, split: str) -> None:
    """Each plays from 0 to 1.2 s or from 1.2 s on, or throughout."""
    generator = np.random.default_rng(index)
    times_N = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    wave_N = generator.normal(0, 0.002, times_N.size)
    playing = [name for name in TONES_HZ if generator.random() < 0.5] or ["drone"]
    style, sings = ("fast", "slow")[int(generator.integers(2))], bool(generator.random() < 0.7)
    notes = []
    for part in (*playing, *(["vocals"] if sings else [])):
        start_s, end_s = [(0.0, SECONDS), (0.0, 1.2), (1.2, SECONDS)][int(generator.integers(3))]
        sounding_N = (times_N >= start_s) & (times_N < end_s)
        wave_N += sounding_N * _part(part, times_N)
        notes.append({"part": part, "pitch": 60, "start_s": start_s, "end_s": end_s})
    wave_N = _pulsing(wave_N, times_N, style)
    song = folder / "songs" / f"{index:06d}"
    song.mkdir(parents=True)
    wave_CN = np.stack([wave_N, wave_N]).astype(np.float32)
    write_audio(song / "mix.wav", wave_CN, sample_rate_hz=RATE_HZ)
    truth = {
        "id": f"{index:06d}",
        "split": split,
        "duration_s": SECONDS,
        "tags": [style, *playing],
        "description": "",
        "lyrics": "",
        "instrumental": not sings,
        "style": style,
        "instruments": [*playing, *(["gong"] if index == 3 else [])],
        "notes": notes,
    }
    (song / "song.json").write_text(json.dumps(truth))


def quickly(corpus: Corpus, **changes: Any) -> Tagger:
    """Train a very small tagger for a few seconds."""
    training = TaggerTraining(
        **{"minutes": 60.0, "max_steps": 420, "batch": 12, "fewest_songs": 4, "peak_rate": 1e-2}
        | changes
    )
    learned, _ = split_songs(corpus)
    config = dataclasses.replace(
        names_of(learned, training.fewest_songs),
        widths=(8, 12, 16), num_mels=32, embedding=12, window_s=1.2, dropout=0.0,
    )  # fmt: skip
    return train_tagger(corpus, training, config=config, on_message=ignore_messages)


def test_from_corpus_to_figures_in_one_command(
    band_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ear that learns nothing measures nothing, and one that is not measured neither."""
    monkeypatch.setattr(evaluation, "train_tagger", lambda corpus, *_, **__: quickly(corpus))
    folder = tmp_path / "tagger"
    result = evaluation.run_tagger_eval(band_folder, folder, out=tmp_path / "results")
    assert result["left_out"] == ["gong"]
    assert any("gong" in note for note in result["notes"])
    assert result["num_songs"] == 10
    every = result["instruments"]["all"]
    assert every["average_precision"] > every["base_rate"] + 0.25
    assert every["f1"] > 0.8
    assert result["style"]["accuracy"] > result["style"]["chance"]
    assert json.loads((tmp_path / "results" / "tagger.json").read_text()) == result
    assert (tmp_path / "results" / "tagger.html").is_file()
    assert str(tmp_path) not in json.dumps(result)
    assert "10 held-out originals" in tagger_errors(folder)
    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(evaluation, "train_tagger", None)
    again = evaluation.run_tagger_eval(band_folder, folder)
    assert again["instruments"] == result["instruments"]
    assert "training" in result
    assert "training" not in again
    assert (folder / "model.safetensors").read_bytes() == before
    _check_missing_parts(Tagger.from_pretrained(folder))


def _check_missing_parts(tagger: Tagger) -> None:
    """Taken out of the mix, a part is no longer heard; the others, style and voice still are."""
    band = ("drone", "flute", "bell")
    whole = tagger.hear(play(band))
    assert set(whole.instruments) == set(band)
    assert (whole.style, whole.sings) == ("fast", True)
    for missing in band:
        rest = tuple(part for part in band if part != missing)
        without = tagger.hear(play(rest))
        assert set(without.instruments) == set(rest)
        assert (without.style, without.sings) == ("fast", True)
    assert not tagger.hear(play(band, sings=False)).sings
    slow = tagger.hear(play(band, style="slow"))
    assert (set(slow.instruments), slow.style, slow.sings) == (set(band), "slow", True)


def test_training_is_repeatable(band_folder: Path) -> None:
    """Two runs of one command that hear differently cannot both stand beside a score."""
    corpus = open_corpus(band_folder)
    one, other = (quickly(corpus, max_steps=3, most_kept=0) for _ in range(2))
    for name, tensor in one.state_dict().items():
        assert tensor.equal(other.state_dict()[name]), name


def test_songs_kept_apart_are_not_learned_from(band_folder: Path) -> None:
    """Thresholds chosen on songs that were learned by heart are too sure of themselves."""
    learned, kept = split_songs(open_corpus(band_folder))
    assert [song.id for song in kept] == ["000009", "000019"]
    assert {song.id for song in learned}.isdisjoint({song.id for song in kept})
    assert {song.split for song in learned} == {"train"}


def test_an_instrument_is_there_while_it_plays(band_folder: Path) -> None:
    """A rest labelled as a piano teaches that pianos are silent."""
    corpus = open_corpus(band_folder)
    config = names_of(split_songs(corpus)[0], 4)
    for song in corpus.songs[:8]:
        example = load_example(corpus, song, config, 0.5, 1.9)
        assert len(example.features_TM) == round(1.9 * RATE_HZ) // 1024 + 1
        for start_s in (0.0, 0.85):
            heard_I, sings = labels(example, start_s, 1.05)
            parts = {
                note["part"]
                for note in song.truth()["notes"]
                if min(note["end_s"], 1.55 + start_s) - max(note["start_s"], 0.5 + start_s) > 1
            }
            names = {name for name, heard in zip(config.instruments, heard_I, strict=True) if heard}
            assert names == parts - {"vocals"}, (song.id, start_s)
            assert sings == ("vocals" in parts)
        whole = dataclasses.replace(example, notes_N3=None)
        assert labels(whole, 0.0, 1.0)[0].tolist() == example.instruments_I.tolist()


def test_the_hours_are_shared_among_all_songs(
    band_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first hours of a corpus hold a tenth of its instruments' ways of sounding."""
    corpus = open_corpus(band_folder)
    read: list[float] = []
    whole = Corpus.read_mix

    def counted(self: Corpus, song: Any, start_s: float, duration_s: float) -> Any:
        read.append(duration_s)
        return whole(self, song, start_s, duration_s)

    monkeypatch.setattr(Corpus, "read_mix", counted)
    quickly(corpus, max_steps=1, max_hours=24 * 1.5 / 3600, most_kept=0)
    assert len(read) == 24
    assert sum(read) == pytest.approx(24 * 1.5, abs=0.01)
    read.clear()
    quickly(corpus, max_steps=1, max_hours=10 * 1.2 / 3600, most_kept=0)
    assert len(read) == 10


def test_another_folder_is_never_replaced(band_folder: Path, tmp_path: Path) -> None:
    """A word mistyped in a command must not cost somebody's music."""
    music = tmp_path / "music"
    music.mkdir()
    (music / "song.wav").write_text("mine")
    with pytest.raises(ConfigError, match="something else"):
        evaluation.run_tagger_eval(band_folder, music)
    assert (music / "song.wav").read_text() == "mine"
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{}")
    with pytest.raises(CheckpointError):
        evaluation.run_tagger_eval(band_folder, damaged)
    with pytest.raises(ConfigError, match="at least 1"):
        evaluation.run_tagger_eval(band_folder, tmp_path / "new", songs=0)


def test_a_corpus_without_truth_is_refused(write_corpus: Any, tmp_path: Path) -> None:
    """Training for minutes on nothing is worse than one clear line."""
    folder = write_corpus(3, splits=("train", "train", "test"))
    with pytest.raises(CorpusError, match="no instruments"):
        evaluation.run_tagger_eval(folder, tmp_path / "tagger")
    assert not (tmp_path / "tagger").exists()


def test_too_few_songs_are_named(band_folder: Path) -> None:
    """A tagger of no instrument would be a perfect one."""
    with pytest.raises(CorpusError, match="no instrument is in 30"):
        train_tagger(
            open_corpus(band_folder), TaggerTraining(minutes=1), on_message=ignore_messages
        )
    with pytest.raises(ConfigError):
        TaggerTraining(minutes=0)


@pytest.mark.parametrize("damage", ["{", "[]", '{"instruments": {"all": {}}}', None])
def test_how_well_it_hears_is_said_or_said_to_be_unknown(
    tmp_path: Path, damage: str | None
) -> None:
    """A score without the tagger's own errors beside it reads as the truth."""
    if damage is not None:
        (tmp_path / "errors.json").write_text(damage)
    said = tagger_errors(tmp_path)
    assert "run khala eval tagger" in said
    assert ("not known" if damage is None else "cannot be read") in said


def test_some_crops_lose_their_highs() -> None:
    """Heard only with all its bands, a dull recording would lie farther from music than noise."""
    generator = np.random.default_rng(0)
    dulled = [_dulled(np.zeros((4, 96), np.float32), generator) for _ in range(400)]
    emptied = [one_TM for one_TM in dulled if one_TM.any()]
    assert 70 < len(emptied) < 130
    for one_TM in emptied:
        assert not one_TM[:, :32].any(), "the lows stay"
        assert (one_TM[:, -1] == np.float32(np.log(1e-3))).all()
