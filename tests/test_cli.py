"""The command line, run as a user runs it, with a model of noise."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from khala import Song
from khala.audio import read_audio, write_audio
from khala.cli import COMMANDS, main
from khala.commands import terminal
from khala.errors import AudioError
from khala.infer import sound as sound_room

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command in an empty folder; `generate` gets the tiny model and 2 s unless told."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)

    def call(command: str, *arguments: str, **options: str) -> tuple[int, str, str]:
        if command == "generate":
            options = {"model": str(tiny_model), "duration": "2", "levels": "8", **options}
        words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        status = main([command, *arguments, *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def only_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("khala: error: ")]
    assert len(lines) == 1, err
    assert err.splitlines()[-1] == lines[0]
    return lines[0]


def test_a_song_from_the_readme(run: Run, tmp_path: Path) -> None:
    """The first command anybody types gives a song that plays, and the file to remake it."""
    lyrics = Path(__file__).parents[1] / "examples" / "song.txt"
    status, out, err = run(
        "generate", lyrics_file=str(lyrics), prompt="female vocal, pop", seed="7", out="song.wav"
    )
    assert status == 0, err
    assert files(tmp_path) == ["song.khala", "song.wav"]
    assert 1.9 <= read_audio("song.wav").shape[1] / 44_100 <= 2.1
    song = Song.load("song.khala")
    assert song.request.seed == 7
    assert song.lyrics.startswith("[Verse 1]\n")
    assert "song.wav" in out
    assert "seed 7" in out
    assert "sketch" in err


@pytest.mark.parametrize("ending", ["flac", "mp3", "opus"])
def test_every_format(ending: str, run: Run) -> None:
    """The ending decides the format."""
    status, _, err = run("generate", "--instrumental", out=f"a.{ending}", seed="1")
    assert status == 0, err
    assert 1.8 <= read_audio(f"a.{ending}").shape[1] / 44_100 <= 2.2


def test_variants_are_the_songs_of_their_seeds(run: Run, tmp_path: Path) -> None:
    """Whoever likes take 2 can make it again alone, byte for byte."""
    status, out, _ = run(
        "generate", "--instrumental", "--json", "--quiet", n="3", seed="7", out="take.wav"
    )
    document = json.loads(out)
    assert status == 0
    assert [one["seed"] for one in document["songs"]] == [7, 8, 9]
    assert [one["audio"] for one in document["songs"]] == ["take-1.wav", "take-2.wav", "take-3.wav"]
    run("generate", "--instrumental", seed="8", out="alone.wav")
    assert sha256(tmp_path / "alone.wav") == sha256(tmp_path / "take-2.wav")
    assert sha256(tmp_path / "alone.khala") == sha256(tmp_path / "take-2.khala")
    assert sha256(tmp_path / "alone.wav") == document["songs"][1]["audio_sha256"]
    assert sha256(tmp_path / "alone.wav") != sha256(tmp_path / "take-1.wav")


def test_json_is_one_document_and_quiet_is_quiet(run: Run) -> None:
    """A script reads the result without cutting progress out of it."""
    status, out, err = run("generate", "--instrumental", "--json", "--quiet", seed="3")
    (song,) = json.loads(out)["songs"]
    assert status == 0
    assert err == ""
    assert song["levels"] == 8
    assert song["ended"] in ("limit", "end_token")
    assert set(song["timings_s"]) == {"backbone", "superres", "codec"}
    assert set(song["digests"]) == {"codec", "backbone", "superres", "tokenizer"}


def test_as_the_published_program(run: Run, tmp_path: Path) -> None:
    """Who compares both programs gets the other's behaviour by one word, and errors in one line."""
    status, _, err = run(
        "generate", lyrics="la", prompt="pop", seed="7", out="a.wav", compat="published"
    )
    assert status == 2
    assert "no code of the level" in only_line(err)
    assert "duration_s is 60 instead of 2" in err
    assert files(tmp_path) == []
    wave_CN = np.random.default_rng(0).uniform(-0.4, 0.4, (2, 3 * 2_048 + 5))
    write_audio(tmp_path / "in.wav", wave_CN, sample_rate_hz=44_100)
    frames = {}
    for compat in ("none", "published"):
        status, out, err = run("encode", "in.wav", f"{compat}.khala", "--json", compat=compat)
        assert status == 0, err
        frames[compat] = json.loads(out)["frames"]
        assert Song.load(f"{compat}.khala").compat == compat
        for decoded in ("none", "published"):
            name = f"{compat}-{decoded}.wav"
            assert run("decode", f"{compat}.khala", name, compat=decoded)[0] == 0
    assert frames == {"none": 4, "published": 3}
    status, _, err = run("decode", "none.khala", "x.wav", compat="publisht")
    assert status == 2
    assert "published-natural" in only_line(err)


def test_without_a_seed_one_is_chosen_and_said(run: Run) -> None:
    """A lucky song can be made again."""
    _, out, _ = run("generate", "--instrumental", "--json")
    assert json.loads(out)["songs"][0]["seed"] == Song.load("song.khala").request.seed


def test_picture(run: Run, tmp_path: Path) -> None:
    """--plot gives a picture of the song."""
    pytest.importorskip("matplotlib")
    status, _, err = run("generate", "--plot", lyrics="[Verse]\\nla\\n[Chorus]\\nla", out="a.wav")
    assert status == 0, err
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert files(tmp_path) == ["a.khala", "a.png", "a.wav"]


def test_sketch_refine_decode_verify(run: Run, tmp_path: Path) -> None:
    """A sketch becomes the song it would have been, a song gives back its sketch, and replays."""
    run("generate", "--instrumental", seed="7", levels="2", out="sketch.wav")
    run("generate", "--instrumental", seed="7", out="song.wav")
    status, _, err = run("refine", "sketch.khala", levels="8", out="later.wav")
    assert status == 0, err
    assert sha256(tmp_path / "later.wav") == sha256(tmp_path / "song.wav")
    status, _, _ = run("decode", "song.khala", "again.wav", levels="2")
    assert status == 0
    assert sha256(tmp_path / "again.wav") == sha256(tmp_path / "sketch.wav")
    status, out, _ = run("verify", "song.khala")
    assert status == 0
    assert "identical" in out
    status, out, _ = run("verify", "later.khala", "--json")
    assert json.loads(out)["identical"]
    status, _, err = run("refine", "song.khala", keep="2", seed="9", levels="8", out="song.mp3")
    assert status == 2
    assert "would replace 'song.khala'" in only_line(err)


def test_a_song_that_cannot_be_written_costs_no_other(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the first sound has room for the codes of all."""
    real = sound_room.write_song

    def write(path: Path, *rest: Any) -> None:
        if path.name == "a-1.wav":
            raise AudioError(f"'{path}': no space left on device")
        real(path, *rest)

    monkeypatch.setattr(sound_room, "write_song", write)
    status, _, err = run("generate", "--instrumental", seed="7", n="3", levels="2", out="a.wav")
    assert status == 2
    assert only_line(err).endswith("no space left on device")
    assert files(tmp_path) == ["a-1.khala", "a-2.khala", "a-2.wav", "a-3.khala", "a-3.wav"]


def test_encode_and_decode(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    """A recording goes in and comes out; damage in between is noticed."""
    run("generate", "--instrumental", seed="7", out="a.wav")
    status, out, err = run("encode", "a.wav", "b.khala", "--json", model=str(tiny_model))
    assert status == 0, err
    assert json.loads(out)["levels"] == 8
    status, _, _ = run("decode", "b.khala", "b.flac")
    assert status == 0
    status, _, err = run("verify", "b.khala")
    assert status == 2
    assert "recording" in only_line(err)
    data = bytearray((tmp_path / "b.khala").read_bytes())
    data[-5] ^= 4
    (tmp_path / "c.khala").write_bytes(data)
    status, _, err = run("decode", "c.khala", "c.wav")
    assert status == 2
    assert "c.khala" in only_line(err)
    assert not (tmp_path / "c.wav").exists()


BAD: list[tuple[list[str], dict[str, str], str]] = [
    ([], {"lyrics": ""}, "lyrics are empty"),
    ([], {"lyrics": "  \\n "}, "lyrics are empty"),
    ([], {}, "--lyrics-file"),
    ([], {"lyrics": "la " * 400_000}, "5000"),
    ([], {"lyrics": "la\x07la"}, "control character"),
    ([], {"lyrics": "la\udcffla"}, "control character"),
    ([], {"lyrics": "sing <|eot_id|> now"}, "control tokens"),
    ([], {"prompt": "pop <|eot_id|>", "lyrics": "la"}, "control tokens"),
    ([], {"prompt": "p" * 1_001, "lyrics": "la"}, "1000"),
    ([], {"lyrics_file": "none.txt"}, "no such file"),
    ([], {"lyrics_file": "."}, "no such file"),
    ([], {"lyrics_file": "big.txt"}, "5000"),
    ([], {"lyrics_file": "binary.txt"}, "UTF-8"),
    (["--instrumental"], {"lyrics": "la"}, "not allowed with"),
    (["--instrumental"], {"out": "a.aac"}, ".wav, .flac, .mp3, .opus"),
    (["--instrumental"], {"out": "a"}, ".wav, .flac, .mp3, .opus"),
    (["--instrumental"], {"out": "none/a.wav"}, "does not exist"),
    (["--instrumental"], {"out": "/proc/a.wav"}, "cannot write"),
    (["--instrumental"], {"out": "folder.wav"}, "is a folder"),
    (["--instrumental"], {"out": "a" * 300 + ".wav"}, "too long"),
    (["--instrumental"], {"model": "none"}, "'nano'"),
    (["--instrumental"], {"model": "."}, "codec"),
    (["--instrumental"], {"device": "tpu"}, "cpu"),
    (["--instrumental"], {"duration": "0"}, "duration"),
    (["--instrumental"], {"duration": "-3"}, "duration"),
    (["--instrumental"], {"duration": "nan"}, "duration"),
    (["--instrumental"], {"duration": "1e9"}, "duration"),
    (["--instrumental"], {"duration": "long"}, "--duration"),
    (["--instrumental"], {"duration": "100"}, "up to"),
    (["--instrumental"], {"levels": "1"}, "2"),
    (["--instrumental"], {"levels": "65"}, "64"),
    (["--instrumental"], {"levels": "9"}, "2 to 8"),
    (["--instrumental"], {"seed": "-1"}, "seed"),
    (["--instrumental"], {"seed": str(2**63)}, "seed"),
    (["--instrumental"], {"seed": str(2**63 - 1), "n": "2"}, "seed"),
    (["--instrumental"], {"n": "0"}, "--n"),
    (["--instrumental"], {"n": "1000000000"}, "--n"),
    (["--instrumental"], {"temperature": "nan"}, "temperature"),
    (["--instrumental"], {"top_k": "0"}, "top_k"),
    (["--instrumental"], {"guidance_scale": "11"}, "1 to 10"),
    (["--instrumental"], {"durration": "3"}, "did you mean '--duration'?"),
    (["--instrumental", "extra"], {}, "'extra'"),
]


@pytest.mark.parametrize(("words", "options", "expected"), BAD, ids=range(len(BAD)))
def test_bad_input_is_one_line(
    words: list[str], options: dict[str, str], expected: str, run: Run, tmp_path: Path
) -> None:
    """Every mistake is answered at once, in one line that says what is allowed; nothing is left."""
    (tmp_path / "big.txt").write_text("la " * 350_000)
    (tmp_path / "binary.txt").write_bytes(b"la \xff\xfe la")
    (tmp_path / "folder.wav").mkdir()
    status, out, err = run("generate", *words, **options)
    assert status == 2
    assert out == ""
    assert expected in only_line(err)
    assert len(only_line(err)) < 400 + 2 * len(options.get("out", ""))
    assert files(tmp_path) == ["big.txt", "binary.txt", "folder.wav"]


def test_outputs_are_checked_before_the_model_is_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits a minute to hear that the disk is full."""
    real = os.statvfs("/")

    def full(_: object) -> Any:
        return type("Stat", (), {"f_bavail": 1, "f_frsize": real.f_frsize})()

    monkeypatch.setattr(os, "statvfs", full)
    status, _, err = run("generate", "--instrumental", model="would fail later")
    assert status == 2
    assert "MB are needed" in only_line(err)


def test_disk_that_fills_up_while_writing(tiny_model: Path, tmp_path: Path) -> None:
    """A full disk costs the sound but not the codes, and leaves no half of a file."""
    command = [sys.executable, "-m", "khala.cli", "generate", "--instrumental", "--seed", "1"]
    command += ["--model", str(tiny_model), "--duration", "2", "--levels", "8", "--out", "a.wav"]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=small_files, check=False
    )
    assert done.returncode == 2
    assert "too large" in only_line(done.stderr)
    assert files(tmp_path) == ["a.khala"]
    assert Song.load(tmp_path / "a.khala").num_levels == 8


@pytest.mark.parametrize(
    ("stage", "at", "levels"),
    [("backbone", 30, [2, 2, 2]), ("superres", 2, [8, 4, 2]), ("backbone", 3, [])],
)
def test_ctrl_c_keeps_what_is_finished(
    stage: str,
    at: int,
    levels: list[int],
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C costs what is not there yet, and nothing that is."""
    real = terminal.Stages.__call__

    def press(stages: terminal.Stages, event: Any) -> None:
        real(stages, event)
        if event.song == 1 and getattr(event, "stage", "") == stage and event.done == at:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(terminal.Stages, "__call__", press)
    status, out, err = run("generate", "--instrumental", "--json", n="3", seed="7", out="a.wav")
    assert status == 130
    assert len(json.loads(out)["songs"]) == levels.count(8), "those that are whole"
    assert json.loads(out)["stopped"]
    assert len(files(tmp_path)) == 2 * len(levels)
    for number, wanted in enumerate(levels, 1):
        song = Song.load(f"a-{number}.khala")
        assert song.num_levels == wanted
        assert read_audio(f"a-{number}.wav").shape[1] == song.num_frames * 2_048
    assert ("saved" if levels else "nothing yet that could be played") in only_line(err)
    assert f"{2 - levels.count(8)} more" in only_line(err)


def test_second_ctrl_c_aborts(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever presses twice means it."""
    real = terminal.Stages.__call__
    before = signal.getsignal(
        signal.SIGINT
    )  # ignored where a shell runs the tests in its background

    def press(stages: terminal.Stages, event: Any) -> None:
        real(stages, event)
        if getattr(event, "done", 0) == 30:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(terminal.Stages, "__call__", press)
    status, _, err = run("generate", "--instrumental")
    assert status == 130
    assert "stopped" in only_line(err)
    assert files(tmp_path) == []
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("name", [name for name, _, _ in COMMANDS])
def test_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command shows how it is used."""
    with pytest.raises(SystemExit) as info:
        main([name, "--help"])
    assert info.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert f"khala {name} " in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "give a command"),
        (["genrate"], "did you mean 'generate'?"),
        (["zzz"], "no command 'zzz'"),
        (["--verbose"], "--verbose"),
        (["decode", "a.khala"], "OUT"),
        (["decode", "none.khala", "a.wav"], "none.khala"),
        (["decode", "none.khala", "a.aac"], ".wav, .flac, .mp3, .opus"),
        (["encode", "none.wav", "a.khala"], "nano"),
        (["encode", "none.wav", "a.wav"], ".khala"),
        (["encode", "https://example.com/a.wav", "a.khala"], "example.com"),
        (["verify", "none.khala"], "none.khala"),
        (["refine", "none.khala", "--out", "a.wav"], "none.khala"),
        (["refine", "none.khala"], "--out"),
    ],
)
def test_other_mistakes(
    words: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same one line for every command."""
    monkeypatch.chdir(tmp_path)
    if words[:1] == ["encode"] and expected != "nano":
        words = [*words, "--model", str(tiny_model)]
    if expected == "nano":
        words, expected = [*words, "--model", "nono"], "'nano'"
    assert main(words) == 2
    assert expected in only_line(capsys.readouterr().err)
    assert files(tmp_path) == []


def test_doctor(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    """A user learns what the computer can do before waiting for it."""
    status, out, _ = run("doctor", model=str(tiny_model))
    assert status == 0
    assert "30 s of song" in out
    plan = run("doctor", "--plan", "--json", model=str(tiny_model))
    needs = json.loads(plan[1])["plan"]["needs"]
    assert plan[0] == 0
    assert set(needs) == {"float32", "mixed", "bfloat16", "int8"}
    assert needs["float32"]["longest_s"]["in turns"] > 0
    status, out, _ = run("doctor", "--json", model=str(tmp_path))
    assert status == 2
    assert "codec" in json.loads(out)["model"]["error"]


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("a shape is wrong"), False),
    ],
)
def test_too_little_memory_is_one_line(
    error: Exception, is_memory: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every allocator has an error of its own; a bug must still show where it is."""

    def give_up(*_: object) -> None:
        raise error

    monkeypatch.setattr("khala.commands.doctor.run_doctor", give_up)
    if not is_memory:
        with pytest.raises(RuntimeError, match="shape"):
            run("doctor")
        return
    status, _, err = run("doctor")
    assert status == 2
    assert "not enough memory" in err
    assert err.count("\n") == 1


def test_errors_are_printable(run: Run) -> None:
    """A name from a stranger cannot colour or move a terminal, and is still one line."""
    status, _, err = run("decode", "a\x1b[2J\nb.khala", "a.wav")
    assert status == 2
    assert "\x1b" not in err
    only_line(err)


def test_evals_are_those_of_the_room() -> None:
    """A measurement that exists can be run, with every argument it has."""
    from khala.commands.evaluate import KINDS, declare
    from khala.commands.parsing import Parser
    from khala.evals import EVALS
    from khala.evals.report import BY_PLACE

    assert set(KINDS) == set(EVALS)
    for kind, one in EVALS.items():
        parser = Parser(prog=kind)
        names = declare(parser, one.arguments)
        by_place = set(names) & set(BY_PLACE)
        assert by_place or "model" in names or {"recogniser", "tagger"} & set(names)
        options = [f"--{name.replace('_', '-')}" for name in names if name not in by_place]
        assert set(options) <= set(parser.options())
        assert "  --" in parser.format_help()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "codec"], "--out"),
        (["train", "codec", "--out", "r"], "--corpus"),
        (["train", "backbone", "--out", "r", "--corpus", "c"], "--codes"),
        (["train", "backbone", "--out", "r", "--codes", "c", "--corpus", "c"], "not for"),
        (["train", "backbone", "--out", "r", "--codes", "none"], "none"),
        (["train", "backbone", "--out", "r", "--codes", "c", "--minutes", "nan"], "above 0"),
        (["synth", "--out", "c", "--hours", "nan"], "--hours"),
        (["synth", "--out", "c", "--hours", "0"], "--hours"),
        (["synth", "--out", "c", "--workers", "0"], "--workers"),
        (["prepare", "none", "--out", "codes"], "none"),
        (["eval", "codec", "--modell", "nano", "--model", "nano", "--corpus", "c"], "'--model'"),
        (["eval", "codec"], "--model"),
        (["eval", "beauty"], "beauty"),
        (["eval", "songs", "folder", "--taggr", "t"], "'--tagger'"),
        (["eval", "tagger", "--corpus", "c"], "--tagger"),
        (["eval", "tagger", "--corpus", "c", "--tagger", "t", "--train"], "no option '--train'"),
        (["eval", "codec", "--model", "none", "--corpus", "none"], "none"),
    ],
)
def test_mistakes_in_training(
    words: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The commands for training answer a mistake like the others."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert expected in only_line(capsys.readouterr().err)


def test_a_file_that_was_not_scored_shows_in_the_exit_status(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A script that scores a folder each night must notice the song that could not be read."""
    noise_CN = np.random.default_rng(0).normal(0, 0.1, (2, 44_100 * 3)).astype(np.float32)
    write_audio(tmp_path / "fine.wav", noise_CN, sample_rate_hz=44_100)
    assert main(["eval", "songs", str(tmp_path)]) == 0
    capsys.readouterr()
    (tmp_path / "broken.mp3").write_bytes(b"not a song")
    assert main(["eval", "songs", str(tmp_path), "--json"]) == 1
    captured = capsys.readouterr()
    assert [one["file"] for one in json.loads(captured.out)["failed"]] == ["broken.mp3"]
    assert "Traceback" not in captured.err


def test_a_song_imports_no_compiler_of_torch(tiny_model: Path, tmp_path: Path) -> None:
    """It takes longer to import than a sketch to make, and nothing of it is used."""
    program = (
        "import sys; from khala.cli import main; main(sys.argv[1:]); "
        "print('torch._dynamo' in sys.modules)"
    )
    words = ["generate", "--instrumental", "--prompt", "pop", "--duration", "1", "--levels", "2"]
    files = ["--model", str(tiny_model), "--out", str(tmp_path / "a.wav")]
    made = subprocess.run(
        [sys.executable, "-c", program, *words, *files], capture_output=True, text=True, check=True
    )
    assert made.stdout.splitlines()[-1] == "False"
