"""A run can be listened to and looked at while it goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from khala.audio import read_audio
from khala.codec import Codec
from khala.nn import TrunkConfig
from khala.recipes import codec_debug
from khala.train.flops import matrix_ceiling, trunk_flops
from khala.train.hooks import read_log
from khala.train.run import train_backbone, train_superres

SETTINGS = ["train.num_steps=4", "train.validate_every=2", "train.log_every=2"]


@pytest.fixture
def codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an untrained codec that says it is the codes' own."""
    torch.manual_seed(0)
    Codec(codec_debug().task.codec).save(tmp_path / "model" / "codec")
    monkeypatch.setattr(Codec, "codes_digest", lambda _: "dice")
    return tmp_path / "model"


def test_what_is_learned_can_be_heard(tmp_path: Path, codes_dir: Path, codec: Path) -> None:
    """A loss that falls says nothing of a song that has become one tone."""
    settings = [*SETTINGS, "train.tensorboard=true"]
    model = train_backbone(codes_dir, tmp_path / "b", "debug", settings, codec=codec)
    train_superres(codes_dir, tmp_path / "s", "debug", SETTINGS, init=model, codec=codec)
    for run in ("b", "s"):
        sounds = sorted((tmp_path / run / "samples").iterdir())
        assert [path.name for path in sounds] == ["step-0000002.wav", "step-0000004.wav"]
        assert read_audio(sounds[-1]).shape[1] > 20 * 2048 - 1
        assert all(0 < row["mfu"] < 2 for row in read_log(tmp_path / run) if "valid" not in row)
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = events.EventAccumulator(str(tmp_path / "b" / "board"))
    board.Reload()
    assert {"train/loss", "valid/test/loss"} <= set(board.Tags()["scalars"])
    assert board.Tags()["audio"] == ["sample"]
    assert not (tmp_path / "s" / "board").exists()


def test_arithmetic_is_counted_as_by_hand() -> None:
    """A machine that seems idle would be bought twice."""
    trunk = TrunkConfig(
        width=4, num_layers=2, num_heads=2, num_kv_heads=1, head_width=2, ffn_width=8
    )
    layer = 2 * (4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 3 * 4 * 8)
    attention = 2 * (10 * 4 + 10 * 4)
    head = 2 * 4 * 7 * 5
    asked = {"lengths": [10] * 3, "head_rows": 7, "head_positions": 5}
    found = trunk_flops(trunk, causal=False, **asked)
    assert found == 3 * (2 * 30 * (layer + attention) + head)
    assert trunk_flops(trunk, causal=True, **asked) == 3 * (2 * 30 * (layer + attention / 2) + head)
    packed = trunk_flops(trunk, causal=False, **(asked | {"lengths": [20, 10]}))
    assert packed == 3 * (2 * (30 * layer + (400 + 100) * 16) + head)
    assert matrix_ceiling(torch.device("cpu"), "float32") > 1e8
