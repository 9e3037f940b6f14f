"""Several processes train what one process trains, and go on for each other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from khala.adapter import load_adapter
from khala.errors import ConfigError
from khala.train.hooks import read_log
from khala.train.ranks import ALONE, Ranks, start_ranks
from khala.train.run import train_backbone, train_codec, train_superres
from khala.train.state import TrainConfig

SETTINGS = ["train.num_steps=6", "train.num_parts=2", "train.log_every=1", "train.optimiser=muon"]


def torchrun(num: int, *words: str, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    """Run khala in several processes, as a user would."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    start = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(num),
        "--master-port",
        str(port),
    ]
    return subprocess.run(
        [sys.executable, *start, "-m", "khala", "train", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def with_settings(*settings: str) -> list[str]:
    return [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]


def losses(run: Path) -> np.ndarray:
    return np.array([line["loss"] for line in read_log(run) if "valid" not in line])


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def assert_close(one: Path, other: Path, kind: str) -> None:
    np.testing.assert_allclose(losses(one), losses(other), rtol=2e-4)
    ours, theirs = (weights(run / "model" / kind) for run in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("sharding", ["none", "layers"])
def test_two_processes_train_the_backbone_that_one_trains(
    tmp_path: Path, codes_dir: Path, sharding: str
) -> None:
    """A cluster that trains another model than a laptop makes every small experiment worthless."""
    train_backbone(codes_dir, tmp_path / "one", "debug", SETTINGS)
    made = torchrun(
        2, "backbone", "debug", "--codes", str(codes_dir), "--out", str(tmp_path / "two"),
        *with_settings(f"train.sharding={sharding}"),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-2000:]
    assert made.stderr.count("to beat") <= 1, "both processes spoke"
    assert_close(tmp_path / "one", tmp_path / "two", "backbone")
    items = [read_log(tmp_path / name)[-2]["num_items"] for name in ("one", "two")]
    assert items[0] == items[1]


def test_two_processes_train_the_super_resolution_that_one_trains(
    tmp_path: Path, codes_dir: Path
) -> None:
    """Parts with Task 0 and parts with Task 1 meet in one step."""
    train_superres(codes_dir, tmp_path / "one", "debug", SETTINGS)
    made = torchrun(
        2, "superres", "debug", "--codes", str(codes_dir), "--out", str(tmp_path / "two"),
        *with_settings("train.sharding=layers"),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-2000:]
    assert_close(tmp_path / "one", tmp_path / "two", "superres")


def test_two_processes_train_the_change_that_one_trains(tmp_path: Path, codes_dir: Path) -> None:
    """Frozen matrices are sharded beside the small ones that learn."""
    base = train_backbone(codes_dir, tmp_path / "base", "debug", ["train.num_steps=1"])
    lora = ["train.lr=1e-2", 'task.lora={"rank":2}', "train.optimiser=adamw"]
    one = train_backbone(codes_dir, tmp_path / "one", "debug", [*SETTINGS, *lora], init=base)
    made = torchrun(
        2, "backbone", "debug", "--codes", str(codes_dir), "--out", str(tmp_path / "two"),
        "--init", str(base), *with_settings(*lora, "train.sharding=layers"),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-2000:]
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), rtol=2e-4)
    ours, theirs = (load_adapter(folder).tensors for folder in (one, tmp_path / "two/adapter"))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=2e-3, atol=2e-4, msg=name)


def test_two_processes_train_the_codec_that_one_trains(tmp_path: Path) -> None:
    """Codebooks, adversary and its balance move by all crops, whoever has seen them.

    Where two codes are equally near, a float's last bit decides, differently on every processor,
    and the two drift apart by luck: one of a few seeds must have no such place. What is not added
    up over the processes is wrong with every seed.
    """
    songs = tmp_path / "songs"
    songs.mkdir()
    noise = np.random.default_rng(0)
    for name in "abcd":
        wave_NC = np.cumsum(noise.uniform(-0.01, 0.01, (40_000, 2)), axis=0)
        soundfile.write(songs / f"{name}.wav", wave_NC - wave_NC.mean(0), 44_100)
    differences = []
    for seed in range(4):
        one, two = codec_logs(songs, tmp_path / f"{seed}", seed)
        assert len(one) == len(two) == 5
        assert {"discriminator", "features"} <= one[-1].keys()
        different = [
            (ours["step"], name, ours[name], theirs[name])
            for ours, theirs in zip(one, two, strict=True)
            for name in ours.keys() - {"per_s", "seconds", "mfu"}
            if theirs[name] != pytest.approx(ours[name], rel=2e-4)
        ]
        if not different:
            return
        differences.append(different[:3])
    pytest.fail(f"different with every seed: {differences}")


def codec_logs(
    songs: Path, folder: Path, seed: int
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Train a codec in one process and in two; return what each logged."""
    settings = [
        "train.num_steps=5", "train.num_parts=2", "train.log_every=1", "task.quantize_from=1",
        "task.adversary.start_step=2", "task.adversary.balance=true", "task.clip_frames=4",
        f"train.seed={seed}",
    ]  # fmt: skip
    train_codec(songs, folder / "one", "conv-debug", settings)
    made = torchrun(
        2, "codec", "conv-debug", "--corpus", str(songs), "--out", str(folder / "two"),
        *[word for setting in settings for word in ("--set", setting)],
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-2000:]
    one, two = (
        [line for line in read_log(folder / name) if "valid" not in line] for name in ("one", "two")
    )
    return one, two


def test_another_number_of_processes_goes_on(tmp_path: Path, codes_dir: Path) -> None:
    """Half of the machines may be gone tomorrow: the order of the songs must stay."""
    train_backbone(codes_dir, tmp_path / "whole", "debug", SETTINGS)
    stop = ["--set", "train.max_seconds=1e-9"]
    words = ["backbone", "debug", "--codes", str(codes_dir), "--out", str(tmp_path / "cut")]
    more = with_settings("train.sharding=layers")
    assert torchrun(2, *words, *more, *stop).returncode == 0
    (kept,) = (tmp_path / "cut/checkpoints").iterdir()
    assert kept.name == "step-0000001"
    assert len(list(kept.glob("*.safetensors"))) == 2, "each process writes its own part"
    config = json.loads((tmp_path / "cut/config.json").read_text())
    config["config"]["train"]["max_seconds"] = None
    (tmp_path / "cut/config.json").write_text(json.dumps(config))
    train_backbone(codes_dir, tmp_path / "cut", "debug", [*SETTINGS, "train.sharding=layers"])
    np.testing.assert_allclose(losses(tmp_path / "cut"), losses(tmp_path / "whole"), rtol=2e-4)


def test_what_cannot_be_shared_is_refused(
    tmp_path: Path, codes_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More processes than parts would leave some without work, in step with nobody."""
    made = torchrun(
        2, "backbone", "debug", "--codes", str(codes_dir), "--out", str(tmp_path / "run"),
        "--set", "train.num_parts=3",
    )  # fmt: skip
    assert made.returncode != 0
    assert "multiple, such as --set train.num_parts=4" in made.stderr
    assert not (tmp_path / "run").exists()
    assert list(Ranks(1, 3).own_parts(6)) == [1, 4]
    with pytest.raises(ConfigError, match="num_parts is 4 and there are 3 processes"):
        TrainConfig(num_steps=1, lr=1.0, num_parts=4).check_ranks(3)
    assert start_ranks("cpu") == (ALONE, "cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="start by torchrun"):
        start_ranks("cpu")


def test_recomputing_changes_memory_and_nothing_else(tmp_path: Path, codes_dir: Path) -> None:
    """A switch against full memory must not be another experiment."""
    train_backbone(codes_dir, tmp_path / "kept", "debug", SETTINGS)
    train_backbone(codes_dir, tmp_path / "twice", "debug", [*SETTINGS, "train.recompute=true"])
    assert losses(tmp_path / "kept").tolist() == losses(tmp_path / "twice").tolist()
    ours, theirs = (weights(tmp_path / name / "model/backbone") for name in ("kept", "twice"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_step_that_is_skipped_moves_nothing(tmp_path: Path, line: Any) -> None:
    """One poisoned batch in a month of training costs one step, and says so."""
    from khala.errors import StageError
    from khala.train.hooks import Log
    from khala.train.loop import train

    config = TrainConfig(
        num_steps=6,
        lr=0.01,
        log_every=1,
        validate_every=0,
        precision="float32",
        on_nonfinite="skip",
    )
    said: list[str] = []
    state = train(line(poison_at=3), config, tmp_path, hooks=[Log(said.append)], say=said.append)
    assert state.step == 6
    assert any("step 3 skipped" in text for text in said)
    rows = read_log(tmp_path)
    assert [row.get("skipped") for row in rows] == [None, None, None, 1.0, None, None]
    assert all(torch.isfinite(parameter).all() for parameter in state.task.model.parameters())

    class Always(type(line())):  # type: ignore[misc]
        def losses(self, batch: Any, step: int) -> Any:
            return {"loss": super().losses(batch, step)["loss"] * float("nan")}

    with pytest.raises(StageError, match=r"11 in a row"):
        train(Always(), TrainConfig(num_steps=99, lr=0.1, on_nonfinite="skip"), tmp_path / "bad")
