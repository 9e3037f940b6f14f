"""The table of songs: made once, scored beside their originals, from requests never trained on."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from khala.audio import write_audio
from khala.corpus import CorpusSong
from khala.errors import ConfigError, CorpusError, KhalaError, RequestError
from khala.evals import EVALS, print_result, report, run_songs_eval
from khala.evals.distributions import FEWEST
from khala.evals.recogniser import Recogniser, RecogniserConfig
from khala.evals.tagger import Tagger, TaggerConfig
from khala.song import Song, SongRequest

RATE_HZ = 44_100


class Player:
    """A pipeline whose songs are noise of the requested length."""

    def __init__(self) -> None:
        self.requests: list[SongRequest] = []

    def check(self, request: SongRequest) -> None:
        if request.duration_s > 100:
            raise RequestError("too long")

    def generate(self, request: SongRequest) -> Song:
        self.requests.append(request)
        num_frames = round(request.duration_s * 44_100 / 2048)
        return Song(
            request=request,
            codes_QT=np.zeros((request.levels, num_frames), dtype=np.int16),
            seed=request.seed,
            model="player",
            digests={"codec": "0" * 64},
            sample_rate_hz=44_100,
            hop=2048,
            lyrics=request.lyrics,
            created="",
            ended="end_token",
        )

    def decode(self, song: Song) -> np.ndarray:
        generator = np.random.default_rng(song.seed)
        num_samples = song.codes_QT.shape[1] * 2048
        return generator.normal(0, 0.1, (2, num_samples)).astype(np.float32)


@pytest.fixture
def player(monkeypatch: pytest.MonkeyPatch) -> Player:
    player = Player()
    monkeypatch.setattr(
        "khala.evals.songs.Khala.from_pretrained", lambda *_, **__: player, raising=True
    )
    return player


def test_a_row_for_every_song(write_corpus: Any, player: Player, tmp_path: Path) -> None:
    """Part F's table: request, length, faults, tempo and words of each song, and the originals."""
    corpus = write_corpus(5, splits=("train", "test", "test_voice", "test_words", "test"))
    ear = Recogniser(RecogniserConfig(phonemes=("a", "i", "s", "u"), width=8, dilations=(1,)))
    ear.words = {"sa": ("s", "a"), "si": ("s", "i"), "ua": ("u", "a"), "iu": ("i", "u")}
    ear.save(tmp_path / "ear")
    arguments: dict[str, Any] = {
        "model": tmp_path,
        "corpus": corpus,
        "out": tmp_path / "results",
        "songs": 4,
        "recogniser": tmp_path / "ear",
        "audio": tmp_path / "songs",
        "lrc": tmp_path / "times",
        "levels": 2,
    }
    result = run_songs_eval(**arguments)
    assert [row["song"] for row in result["songs"]] == ["000001", "000002", "000003", "000004"]
    assert all(row["duration_right"] for row in result["songs"])
    assert all(row["unknown_words"] == 0 for row in result["originals"])
    assert all(row["per_shuffled"] is not None for row in result["songs"])
    assert len({request.seed for request in player.requests}) == 4
    assert json.loads((tmp_path / "results" / "songs.json").read_text()) == result
    assert (tmp_path / "results" / "songs.png").stat().st_size > 1000
    assert (tmp_path / "times" / "000001.lrc").read_text().startswith("[00:0")
    assert "not known" in result["notes"][0]
    for damaged in ("{", "[]", '{"per": {"songs": 1}}'):
        (tmp_path / "ear" / "errors.json").write_text(damaged)
        again = run_songs_eval(**arguments)
        assert "cannot be read" in again["notes"][0]
    assert len(player.requests) == 4, "songs that are there are not made again"
    assert again["songs"] == result["songs"]


@pytest.fixture
def tagger_folder(tmp_path: Path) -> Path:
    """Write an untrained tagger that hears tones and drums in everything that sounds."""
    torch.manual_seed(0)
    tagger = Tagger(
        TaggerConfig(
            instruments=("drums", "tones"), styles=("jazz", "pop"), num_mels=24, widths=(4, 6),
            embedding=4, window_s=2.0,
        )
    )  # fmt: skip
    with torch.no_grad():
        tagger.head.bias += torch.tensor([30.0, 30.0, -30.0, 30.0, -30.0])
    tagger.save(tmp_path / "tagger")
    return tmp_path / "tagger"


def test_instruments_and_style_stand_in_every_row(
    write_corpus: Any, player: Player, tagger_folder: Path, tmp_path: Path
) -> None:
    """What was asked for is in the tags; whether it is heard is part of every song's row."""
    del player
    corpus = write_corpus(3, splits=("train", "test", "test_voice"))
    arguments = {"model": tmp_path, "corpus": corpus, "songs": 2, "tagger": tagger_folder}
    result = run_songs_eval(**arguments, out=tmp_path / "results")
    for row in (*result["songs"], *result["originals"]):
        assert row["instruments_heard"] == ["drums", "tones"]
        assert row["wanted_instruments"] == ["tones"]
        assert (row["instruments_precision"], row["instruments_recall"]) == (0.5, 1.0)
        assert (row["style_heard"], row["style_right"]) == ("pop", None)
        assert (row["sings"], row["singing_right"]) == (False, False)
    assert result["means"]["generated"]["instruments_precision"] == 0.5
    assert result["means"]["originals"]["style_right"] is None
    (plays,) = [table for table in result["tables"] if table["title"] == "What plays"]
    assert plays["rows"][0] == ["000001", "drums, tones", "tones", 0.5, 1.0, "pop", None]
    assert "run khala eval tagger" in result["notes"][0]
    assert "2 songs and 2 of the reference" in result["notes"][1]
    assert result["distances"] == []
    report.write_result(
        tagger_folder / "errors.json",
        {
            "num_songs": 7,
            "instruments": {"all": {"precision": 0.9, "recall": 0.8, "base_rate": 0.1}},
            "style": {"accuracy": 0.7, "chance": 0.2},
        },
    )
    said = run_songs_eval(**arguments)["notes"][0]
    assert "7 held-out originals" in said
    assert "0.90 are there (guessing 0.10)" in said


def test_a_corpus_is_held_against_its_truth(
    write_corpus: Any, tagger_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth says which bass plays; the tags only that one does."""
    whole = CorpusSong.truth
    more = {"instruments": ["drums", "gong"], "style": "jazz"}
    monkeypatch.setattr(CorpusSong, "truth", lambda song: {**whole(song), **more})
    (row,) = run_songs_eval(write_corpus(2), songs=1, tagger=tagger_folder)["songs"]
    assert row["wanted_instruments"] == ["drums"]
    assert (row["wanted_style"], row["style_right"]) == ("jazz", False)


def test_a_folder_is_measured_from_another(tagger_folder: Path, tmp_path: Path) -> None:
    """How far a hundred songs are from music is asked of sets, and an unread file is named."""
    generator = np.random.default_rng(0)
    for folder, tilt in (("real", 0.0), ("ours", 0.9)):
        (tmp_path / folder).mkdir()
        for index in range(FEWEST):
            wave_CN = generator.normal(0, 0.02 + 0.001 * index, (1, RATE_HZ)).astype(np.float32)
            wave_CN[:, 1:] += tilt * wave_CN[:, :-1]
            write_audio(tmp_path / folder / f"{index}.wav", wave_CN, sample_rate_hz=RATE_HZ)
    (tmp_path / "real" / "broken.wav").write_bytes(b"not a song")
    ours, real = tmp_path / "ours", tmp_path / "real"
    result = run_songs_eval(ours, tagger=tagger_folder, reference=real, out=tmp_path / "out")
    kernel = result["distances"][1]
    assert (kernel["embedding"], kernel["num_songs"], kernel["num_reference"]) == (
        "tagger",
        FEWEST,
        FEWEST,
    )
    assert kernel["low"] > 0
    assert [one["file"] for one in result["failed"]] == ["reference: broken.wav"]
    assert "Distance of the set" in (tmp_path / "out" / "songs.html").read_text()
    assert "--reference real" in result["command"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"reference": Path("x")}, "--reference needs --tagger or --embedding"),
        ({"embedding": Path("x")}, "--embedding needs --reference"),
        ({"tagger": Path("nowhere")}, "nowhere"),
        ({"tagger": Path("t"), "reference": Path("x"), "model": Path("m")}, "folder of songs, or"),
    ],
)
def test_contradictions_are_one_clear_error(
    tmp_path: Path, given: dict[str, Path], expected: str
) -> None:
    """An option that does nothing looks as if it had done something."""
    with pytest.raises(KhalaError, match=expected):
        run_songs_eval(tmp_path, **given)  # type: ignore[arg-type]


def test_originals_are_the_reference_of_generated_songs(tmp_path: Path) -> None:
    """A second reference would leave open which of the two was meant."""
    with pytest.raises(ConfigError, match="have their originals"):
        run_songs_eval(model=tmp_path, corpus=tmp_path, tagger=tmp_path, reference=tmp_path)


def test_songs_of_the_wrong_length_are_a_fault(
    write_corpus: Any, player: Player, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Half a song is not the song that was asked for."""
    corpus = write_corpus(2, splits=("train", "test"))
    whole = player.decode
    monkeypatch.setattr(player, "decode", lambda song: whole(song)[:, ::2])
    result = run_songs_eval(model=tmp_path, corpus=corpus, songs=1, levels=2)
    assert "duration" in result["songs"][0]["faults"]
    assert result["means"]["originals"]["duration_right"] == 1.0


def test_only_held_out_songs_are_asked_for(
    write_corpus: Any, player: Player, tmp_path: Path
) -> None:
    """A song that was trained on may be recited."""
    with pytest.raises(CorpusError, match="held-out"):
        run_songs_eval(model=tmp_path, corpus=write_corpus(2, splits=("train",)), songs=1)
    assert player.requests == []


def test_any_folder_of_songs_is_scored(tmp_path: Path) -> None:
    """One broken file among a thousand must not cost the other scores, nor pass unseen."""
    folder = tmp_path / "songs"
    (folder / "more").mkdir(parents=True)
    noise_CN = np.random.default_rng(0).normal(0, 0.1, (2, 5 * 44_100)).astype(np.float32)
    write_audio(folder / "one.wav", noise_CN, sample_rate_hz=44_100)
    write_audio(folder / "more" / "narrow.flac", noise_CN[:1, :40_000], sample_rate_hz=8_000)
    (folder / "one.json").write_text(json.dumps({"tags": "pop, 100 bpm, A minor"}))
    write_audio(folder / "ours.wav", noise_CN, sample_rate_hz=44_100)
    request = SongRequest(prompt="93 bpm", lyrics="la la", duration_s=10.0)
    Player().generate(request).save(folder / "ours.khala")
    (folder / "broken.mp3").write_bytes(b"not a song")
    (folder / "lost.txt").write_text("la la")
    said: list[str] = []
    result = run_songs_eval(folder, out=tmp_path / "out", on_message=said.append)
    rows = {row["song"]: row for row in result["songs"]}
    assert list(rows) == ["more/narrow.flac", "one.wav", "ours.wav"]
    assert (rows["one.wav"]["wanted_bpm"], rows["one.wav"]["wanted_key"]) == (100.0, "A minor")
    assert rows["ours.wav"]["wanted_bpm"] == 93.0
    assert rows["ours.wav"]["faults"] == ["duration"]
    assert rows["more/narrow.flac"]["bandwidth_hz"] < 4_500
    assert [one["file"] for one in result["failed"]] == ["broken.mp3", "lost.txt"]
    assert any("broken.mp3" in line for line in said)
    assert str(tmp_path) not in (tmp_path / "out" / "songs.json").read_text()
    assert (tmp_path / "out" / "songs.png").is_file()


@pytest.mark.parametrize("content", ["nothing", "text", "noise"])
def test_a_folder_without_a_song_is_one_clear_error(tmp_path: Path, content: str) -> None:
    """An empty table would look like a result."""
    folder = tmp_path / "songs"
    if content != "nothing":
        folder.mkdir()
        (folder / ("a.txt" if content == "text" else "a.wav")).write_text("la")
    with pytest.raises(CorpusError, match="songs"):
        run_songs_eval(folder)


def test_a_song_too_long_for_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A three-hour file must not take the machine with it."""
    monkeypatch.setattr("khala.evals.folders.LONGEST_S", 3.0)
    for name, seconds in (("long.wav", 4), ("short.wav", 2)):
        wave_CN = np.full((2, seconds * 8_000), 0.1, np.float32)
        write_audio(tmp_path / name, wave_CN, sample_rate_hz=8_000)
    result = run_songs_eval(tmp_path)
    assert [row["song"] for row in result["songs"]] == ["short.wav"]
    assert "longer than the allowed 3 s" in result["failed"][0]["error"]


def test_a_demo_corpus_is_scored_against_its_truth(write_corpus: Any) -> None:
    """The floor of every figure is what it says of real songs."""
    result = run_songs_eval(write_corpus(2), songs=1)
    assert [row["song"] for row in result["songs"]] == ["000000"]
    assert result["songs"][0]["wanted_bpm"] == 120.0
    assert result["means"]["songs"]["duration_right"] == 1.0


def test_a_folder_or_a_model_but_not_both(tmp_path: Path) -> None:
    """Two things to score at once is a mistake in the command."""
    for given in (
        {},
        {"folder": tmp_path, "model": tmp_path, "corpus": tmp_path},
        {"model": tmp_path},
    ):
        with pytest.raises(ConfigError, match="folder of songs, or --model and --corpus"):
            run_songs_eval(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(EVALS))
def test_arguments_and_functions_agree(name: str) -> None:
    """The command line builds its options from the dataclass and calls the function with them."""
    one = EVALS[name]
    parameters = dict(inspect.signature(one.run).parameters)
    assert parameters.pop("on_message").default is report.ignore_messages
    fields = {field.name: field for field in dataclasses.fields(one.arguments)}
    assert parameters.keys() == fields.keys()
    for key, parameter in parameters.items():
        default = fields[key].default
        wanted = inspect.Parameter.empty if default is dataclasses.MISSING else default
        assert parameter.default == wanted, key


def test_results_carry_their_circumstances_and_no_paths(tmp_path: Path) -> None:
    """A number without date, hardware and command is not a claim; a path tells about a machine."""
    shown = report.table("T", ["name", "value"], [["a", 0.5], ["b", None]])
    result = report.finish(
        "codec",
        {"tables": [shown], "broken": float("nan"), "notes": ["n"]},
        arguments={"model": tmp_path / "nano", "peers": ("opus-16",), "train": True, "out": None},
        out=tmp_path / "results",
    )
    assert result["command"] == "khala eval codec --model nano --peers opus-16 --train"
    assert result["broken"] is None
    assert {"date", "hardware", "software"} <= result.keys()
    assert str(tmp_path) not in (tmp_path / "results" / "codec.json").read_text()
    text = io.StringIO()
    print_result(Console(file=text, width=80), result)
    assert "0.500" in text.getvalue()
    with pytest.raises(ValueError, match="columns"):
        report.table("T", ["one"], [[1, 2]])
