"""Seeing what a part of a model is given, and gives, while the model runs."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from torch import nn

__all__ = ["Watched"]


class Watched:
    """A module whose inputs and output are kept while the model runs inside a ``with`` block."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._seen: tuple[tuple[Any, ...], Any] | None = None

    def __enter__(self) -> Self:
        self._handle = self._module.register_forward_hook(self._keep)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.remove()

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What the module was given last."""
        return self._last()[0]

    @property
    def output(self) -> Any:
        """What it returned."""
        return self._last()[1]

    def _last(self) -> tuple[tuple[Any, ...], Any]:
        assert self._seen is not None, "the model did not run inside the with block"
        return self._seen

    def _keep(self, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._seen = inputs, output
