"""A task small enough to train in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from khala.corpus.order import draw
from khala.train import Batch, Task


class Line(Task):
    """Learns y = 2x - 1 with a matrix, a table and a bias; draws its points by address."""

    kind = "line"
    unit = "points"

    def __init__(self, poison_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
        self.poison_at = poison_at
        self.updates = torch.zeros(1)
        self.seen: list[tuple[int, int]] = []

    def batch(self, step: int, part: int) -> Batch:
        self.seen.append((step, part))
        generator = torch.Generator().manual_seed(draw(5, step, part) >> 2)
        x_BD = torch.rand(6, 4, generator=generator)
        if step == self.poison_at:
            x_BD[0, 0] = float("nan")
        return {"x_BD": x_BD}

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:  # noqa: ARG002
        error = self.model(batch["x_BD"]) - (2 * batch["x_BD"] - 1)
        return {"loss": error.square().mean(), "worst": error.abs().max()}

    def num_items(self, batch: Batch) -> int:
        return len(batch["x_BD"])

    def after_update(self, step: int) -> None:
        self.updates += step

    def extra_state(self) -> dict[str, Tensor]:
        return {"updates": self.updates}

    def load_extra_state(self, tensors: dict[str, Tensor]) -> None:
        self.updates = tensors["updates"]

    def validate(self, step: int) -> dict[str, float]:
        return {"loss": self.losses(self.batch(10**6, 0), step)["loss"].item()}

    def export(self, folder: Path) -> Path:
        return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors are slower on many threads, and tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def line() -> type[Line]:
    """Give the task's class."""
    return Line


def write_codes(folder: Path, *, num_songs: int = 12, num_levels: int = 64) -> Path:
    """Prepared codes that can be learned: each level follows from the one below and the lyrics."""
    from khala.corpus import CorpusSong, PreparedSong
    from khala.corpus import write_codes as write_prepared

    words = ("la", "moon", "river", "sun")

    def codes(index: int) -> np.ndarray:
        """Return codes that depend on the song's words."""
        generator = np.random.default_rng(index)
        level_0 = (np.arange(20 + index % 3) * 3 + 100 * (index % len(words))) % 400
        level_0 = level_0 + generator.integers(0, 2, level_0.shape)
        return np.stack([(level_0 * (q + 1)) % 1024 for q in range(num_levels)])

    def song(index: int) -> CorpusSong:
        splits = {0: "test", 1: "test", 2: "test_voice", 3: "test_words"}
        word = words[index % len(words)]
        instrumental = index % 6 == 5
        return CorpusSong(
            id=f"s{index}",
            split=splits.get(index, "train"),
            duration_s=1.0,
            tags=("pop",),
            description="A short song.",
            lyrics="" if instrumental else f"[Verse 1]\n{word} {word}",
            instrumental=instrumental,
            language="en",
            audio={"mix": folder / str(index)},
            truth_path=None,
        )

    def prepared(shard: int) -> Iterator[PreparedSong]:
        for index in range(5 * shard, min(5 * shard + 5, num_songs)):
            yield PreparedSong(song=song(index), codes_QT=codes(index), duration_s=1.0)

    plan = {
        "codec": "dice",
        "num_levels": num_levels,
        "codebook_size": 1024,
        "num_shards": -(-num_songs // 5),
    }
    write_prepared(folder / "codes", plan, prepared, num_songs=num_songs)
    return folder / "codes"


@pytest.fixture(scope="session")
def codes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of prepared codes."""
    return write_codes(tmp_path_factory.mktemp("prepared"))
