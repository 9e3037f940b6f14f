"""Killed for good at random moments, a run ends with the same bits as one never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RUNNER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from khala.train.hooks import read_log
from khala.train.run import train_backbone

codes, folder = Path(sys.argv[1]), Path(sys.argv[2])
num_kills, seed = int(sys.argv[3]), int(sys.argv[4])
settings = ["train.num_steps=40", "train.log_every=1", "train.checkpoint_every_s=1e-9",
            "task.tokens_per_batch=1024", "task.num_valid_songs=1", "train.validate_every=15"]

def begin(name):
    pid = os.fork()
    if pid == 0:
        try:
            train_backbone(codes, folder / name, "debug", settings)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid

def last_step(name):
    found = sorted((folder / name / "checkpoints").glob("step-*[0-9]"))
    return int(found[-1].name[5:]) if found else 0

started = time.monotonic()
assert os.waitpid(begin("whole"), 0)[1] == 0
whole_s = time.monotonic() - started
generator = random.Random(seed)
kills, writing, steps, finished = 0, 0, [], 0
round_ = 0
while kills < num_kills:
    name = f"cut-{round_}"
    pid = begin(name)
    time.sleep(generator.uniform(0.0, 0.6 * whole_s))
    if os.waitpid(pid, os.WNOHANG)[0] == 0:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
        writing += any((folder / name / "checkpoints").glob("*.tmp"))
        steps.append(last_step(name))
    else:
        round_ += 1
assert os.waitpid(begin(f"cut-{round_}"), 0)[1] == 0

def outcome(name):
    rows = [row for row in read_log(folder / name)]
    told = [{k: v for k, v in row.items() if k not in ("per_s", "mfu", "seconds")} for row in rows]
    return told, (folder / name / "model/backbone/model.safetensors").read_bytes()

wrong = [f"cut-{i}" for i in range(round_ + 1) if outcome(f"cut-{i}") != outcome("whole")]
print(json.dumps({"kills": kills, "writing": writing, "steps": steps, "wrong": wrong}))
"""


def killed(codes: Path, folder: Path, num_kills: int, seed: int) -> dict[str, object]:
    """Kill runs again and again until each has ended; return what happened."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(codes), str(folder), str(num_kills), str(seed)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=7000,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_killed_at_ten_random_moments(tmp_path: Path, codes_dir: Path) -> None:
    """Somebody's week of training must not depend on the power staying on."""
    found = killed(codes_dir, tmp_path / "runs", 10, seed=1)
    assert found["kills"] == 10
    assert found["wrong"] == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_a_hundred_random_moments(
    tmp_path: Path, codes_dir: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Also while a checkpoint is being written."""
    found = killed(codes_dir, tmp_path / "runs", 100, seed=2)
    assert found["kills"] == 100
    assert found["wrong"] == []
    assert int(str(found["writing"])) > 0, "no kill met a checkpoint half written"
    record_testsuite_property("steps at which it was killed", found["steps"])
    record_testsuite_property("kills that met a checkpoint half written", found["writing"])
