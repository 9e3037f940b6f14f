"""The log as TensorBoard shows it: RUN/board, if ``train.tensorboard`` is on."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from khala.errors import ConfigError

__all__ = ["Board"]

SAMPLE_RATE_HZ = 44_100


class Board:
    """Numbers and sounds by step; does nothing without a folder."""

    def __init__(self, folder: Path | None) -> None:
        """Begin to write into ``folder``.

        Raises:
            ConfigError: TensorBoard is not installed.
        """
        self._writer: Any = None
        if folder is None:
            return
        try:
            module = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise ConfigError("train.tensorboard needs pip install 'khala[train]'") from error
        self._writer = module.SummaryWriter(str(folder))

    def numbers(self, step: int, values: Mapping[str, float], *, group: str) -> None:
        """Add a point to each curve of a group."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
            self._writer.flush()

    def sound(self, step: int, wave_CN: Tensor) -> None:
        """Add a sound, as mono."""
        if self._writer is not None:
            self._writer.add_audio("sample", wave_CN.mean(dim=0), step, SAMPLE_RATE_HZ)
            self._writer.flush()
