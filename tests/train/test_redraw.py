"""Fine levels drawn anew: the coarse ones stay, and a stopped run goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from khala.corpus import open_codes
from khala.errors import ConfigError, CorpusError
from khala.train.redraw import redraw
from khala.train.run import train_superres

SMALL = ["train.num_steps=2", "train.log_every=1", "task.num_valid_songs=1"]


@pytest.fixture(scope="module")
def superres(codes_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a model folder with a super-resolution model that has learned next to nothing."""
    return train_superres(codes_dir, tmp_path_factory.mktemp("s"), "debug", SMALL)


def test_coarse_levels_stay_and_fine_ones_are_drawn(
    codes_dir: Path, superres: Path, tmp_path: Path
) -> None:
    """A decoder must meet drawn codes under the very sound that the coarse ones were made from."""
    done: list[tuple[int, int]] = []
    out = redraw(codes_dir, superres, tmp_path / "a", songs=3, progress=lambda *at: done.append(at))
    drawn, true = open_codes(out), open_codes(codes_dir)
    before = {example.id: example for example in true}
    assert len(drawn) == 3
    assert drawn.codec_digest == true.codec_digest
    assert done[-1] == (3, 3)
    for example in drawn:
        own = before[example.id]
        assert own.split == "train"
        np.testing.assert_array_equal(example.codes_QT[:2], own.codes_QT[:2])
        assert (example.codes_QT[2:] != own.codes_QT[2:]).mean() > 0.9
        assert (example.lyrics, example.tags) == (own.lyrics, own.tags)
    every = sum(example.split == "train" for example in true)
    assert len(open_codes(redraw(codes_dir, superres, tmp_path / "all", songs=999))) == every
    other = open_codes(redraw(codes_dir, superres, tmp_path / "b", songs=3, seed=9))
    assert not np.array_equal(other[0].codes_QT, drawn[0].codes_QT)


def test_a_stopped_run_goes_on(
    codes_dir: Path, superres: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an hour of drawing must survive a power cut, and end with the same codes."""
    monkeypatch.setattr("khala.train.redraw.SONGS_PER_SHARD", 1)
    whole = redraw(codes_dir, superres, tmp_path / "a", songs=2)
    shutil.copytree(whole, tmp_path / "b")
    for name in ("manifest.json", "shard-00001.sha256.json"):
        (tmp_path / "b" / name).unlink()
    kept = (tmp_path / "b" / "shard-00000.parquet").stat().st_mtime_ns
    again = redraw(codes_dir, superres, tmp_path / "b", songs=2)
    assert (again / "shard-00000.parquet").stat().st_mtime_ns == kept
    for path in whole.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name
    with pytest.raises(CorpusError, match="seed"):
        redraw(codes_dir, superres, tmp_path / "b", songs=2, seed=1)
    with pytest.raises(ConfigError, match="at least one"):
        redraw(codes_dir, superres, tmp_path / "c", songs=0)
