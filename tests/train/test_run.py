"""``khala train`` from words to a model folder."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from khala.backbone import Backbone
from khala.checkpoint import load_tensors
from khala.errors import CheckpointError, ConfigError
from khala.superres import SuperResolution
from khala.tokens import TextTokenizer
from khala.train.checkpoints import list_checkpoints
from khala.train.hooks import read_log
from khala.train.run import train_backbone, train_superres

SMALL = ["train.num_steps=6", "train.log_every=1", "task.num_valid_songs=1"]


def test_backbone_then_superres(tmp_path: Path, codes_dir: Path) -> None:
    """The chain a user runs: each model folder must open where the next one needs it."""
    said: list[str] = []
    folder = train_backbone(codes_dir, tmp_path / "b", "debug", SMALL, on_message=said.append)
    assert isinstance(Backbone.from_pretrained(folder), Backbone)
    assert any("to beat" in line for line in said)
    assert any("valid" in line for line in said)
    for name in ("config.json", "log.jsonl", "baselines.json", "model/tokenizer.json"):
        assert (tmp_path / "b" / name).is_file(), name
    folder = train_superres(codes_dir, tmp_path / "s", "debug", SMALL, init=folder)
    assert isinstance(SuperResolution.from_pretrained(folder), SuperResolution)


def test_the_exported_model_is_the_average(tmp_path: Path, codes_dir: Path) -> None:
    """What is shipped must be what was validated."""
    folder = train_backbone(codes_dir, tmp_path / "b", "debug", SMALL)
    from safetensors.torch import load_file

    (file,) = list_checkpoints(tmp_path / "b")[-1].glob("*.safetensors")
    state = load_file(file)
    for name, tensor in load_tensors(folder / "backbone").items():
        assert torch.equal(tensor, state[f"average.{name}"]), name


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path, codes_dir: Path) -> None:
    """Going on with other settings would give a model that no config describes."""
    train_backbone(codes_dir, tmp_path, "debug", SMALL)
    with pytest.raises(ConfigError, match=r"config\.train\.lr"):
        train_backbone(codes_dir, tmp_path, "debug", [*SMALL, "train.lr=0.1"])
    with pytest.raises(ConfigError, match="no backbone recipe"):
        train_backbone(codes_dir, tmp_path / "x", "nanoo")
    with pytest.raises(ConfigError, match="no device"):
        train_backbone(codes_dir, tmp_path / "x", "debug", device="gpu")
    assert not (tmp_path / "x").exists()


def test_minutes_choose_the_steps_once(tmp_path: Path, codes_dir: Path) -> None:
    """A machine is rented by time; the choice is kept, or a resumed run would end elsewhere."""
    words = ["task.num_valid_songs=1"]
    train_backbone(codes_dir, tmp_path, "debug", words, minutes=0.02)
    path = tmp_path / "config.json"
    before = path.read_bytes()
    num_steps = json.loads(before)["config"]["train"]["num_steps"]
    assert num_steps >= 1
    train_backbone(codes_dir, tmp_path, "debug", words, minutes=5.0)
    assert path.read_bytes() == before
    assert list_checkpoints(tmp_path)[-1].name == f"step-{num_steps:07d}"


def start(codes_dir: Path, run_dir: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from khala.train.run import train_backbone\n"
        "train_backbone(Path(sys.argv[1]), Path(sys.argv[2]), 'debug',"
        " ['train.num_steps=30', 'train.checkpoint_every_s=0.02', 'train.log_every=1',"
        " 'task.num_valid_songs=1'])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(codes_dir), str(run_dir)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_any_moment_ends_the_same(
    tmp_path: Path, codes_dir: Path, number: signal.Signals
) -> None:
    """Power cuts, evictions and Ctrl-C must not change a single bit of the model."""
    assert start(codes_dir, tmp_path / "whole").wait(60) == 0
    for steps in (3, 9, 17):
        process = start(codes_dir, tmp_path / "cut")
        deadline_s = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline_s:
            names = [path.name for path in list_checkpoints(tmp_path / "cut")]
            if names and int(names[-1][5:]) >= steps:
                break
            time.sleep(0.003)
        process.send_signal(number)
        process.wait(60)
    assert start(codes_dir, tmp_path / "cut").wait(60) == 0
    one, two = (tmp_path / name / "model/backbone/model.safetensors" for name in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()


def test_a_tokenizer_of_ones_own(tmp_path: Path, codes_dir: Path) -> None:
    """The published models read Llama's words, not bytes."""
    own = tmp_path / "tokenizer.json"
    TextTokenizer.bytes().save(own)
    short = ["train.num_steps=1", "train.validate_every=0"]
    made = train_backbone(codes_dir, tmp_path / "a", "debug", short, tokenizer=own)
    assert (made / "tokenizer.json").read_text() == own.read_text()
    inputs = json.loads((tmp_path / "a" / "config.json").read_text())["inputs"]
    assert inputs["tokenizer"] == hashlib.sha256(own.read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match="--init has its own"):
        train_backbone(codes_dir, tmp_path / "b", "debug", short, tokenizer=own, init=made)
    with pytest.raises(CheckpointError, match="cannot read"):
        train_backbone(codes_dir, tmp_path / "c", "debug", short, tokenizer=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"begun with another inputs\.tokenizer"):
        train_backbone(codes_dir, tmp_path / "a", "debug", short)


def test_a_disk_that_is_full_is_one_line(tmp_path: Path, codes_dir: Path) -> None:
    """Checkpoints are written by a library in a thread: its tracebacks tell nobody what to do."""
    words = ["--codes", str(codes_dir), "--out", str(tmp_path / "run"), "--set=train.num_steps=2"]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    made = subprocess.run(
        [sys.executable, "-m", "khala", "train", "backbone", "debug", *words],
        capture_output=True, text=True, preexec_fn=small_files, check=False,
    )  # fmt: skip
    assert made.returncode != 0
    assert "Traceback" not in made.stderr
    last = made.stderr.strip().splitlines()[-1]
    assert last.startswith("khala: error: ")
    assert "step-0000002" in last
    assert "file too large" in last
    assert list_checkpoints(tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("make", [train_backbone, train_superres])
def test_compiled_layers_train_the_same_model(
    tmp_path: Path, codes_dir: Path, make: Callable[..., Path]
) -> None:
    """A switch for speed must not be another experiment, nor end a run that is told more."""
    told = ["task.lessons=0.3", "task.lessons_layer=1", "train.num_steps=4", "train.log_every=1"]
    make(codes_dir, tmp_path / "eager", "debug", told)
    make(codes_dir, tmp_path / "compiled", "debug", [*told, "train.compile=true"])
    eager, compiled = (
        [line["loss"] for line in read_log(tmp_path / name) if "valid" not in line]
        for name in ("eager", "compiled")
    )
    assert compiled == pytest.approx(eager, rel=1e-3)


def test_compiling_without_a_compiler_is_one_line(
    tmp_path: Path, codes_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of all laptops have none; the library's own message is a page."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no no-such-compiler here"):
        train_backbone(codes_dir, tmp_path / "run", "debug", ["train.compile=true"])
