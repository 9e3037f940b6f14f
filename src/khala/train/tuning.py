"""Training a low-rank change of a model instead of the model: what both language tasks share.

Everything but the change is frozen: only the change has moments, an average and a place in the
checkpoints, and the run exports RUN/adapter/ (see ``khala.adapter``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from khala.adapter import AdapterConfig, save_adapter
from khala.corpus.order import draw
from khala.errors import ConfigError
from khala.nn.lora import LoraConfig, add_lora

__all__ = ["Tuning", "dropping"]

DROPOUT_STREAM = 0x64726F70


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A frozen model and the change that it learns."""

    model: nn.Module
    """Its target linears hold the change."""

    config: AdapterConfig
    """What the exported folder says of it."""

    seed: int
    """Of the change's first weights and of its dropout."""

    @classmethod
    def begin(
        cls, model: nn.Module, lora: LoraConfig, *, part: str, base: str | None, seed: int
    ) -> Tuning:
        """Freeze a model and give it a change to learn.

        Args:
            model: trained.
            lora: the shape of the change.
            part: "backbone" or "superres".
            base: digest of the folder that the model was read from; None: it was not.
            seed: of the run.

        Raises:
            ConfigError: the model is not a trained one, or has no room for that rank.
        """
        if base is None:
            raise ConfigError(f"task.lora changes a trained {part}: give the model with --init")
        add_lora(model, lora, seed=seed)
        return cls(model=model, config=AdapterConfig(part=part, base=base, lora=lora), seed=seed)

    def dropout_seed(self, step: int, part: int) -> dict[str, int]:
        """Return what a batch must hold for `dropping`; nothing if nothing is dropped."""
        if not self.config.lora.dropout:
            return {}
        return {"dropout_seed": draw(self.seed, DROPOUT_STREAM, step, part) >> 1}

    def export(self, folder: Path) -> Path:
        """Write the adapter; return its folder."""
        save_adapter(folder, self.model, self.config)
        return folder


@contextmanager
def dropping(seed: int | None) -> Iterator[None]:
    """Let dropout draw by address, so that a resumed run drops what one never stopped drops.

    The generators of torch are afterwards as they were. None: nothing is dropped here.
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
