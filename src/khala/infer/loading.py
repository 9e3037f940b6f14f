"""Getting the three models of a folder into memory: all at once, or each while it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from khala import checkpoint
from khala.adapter import Adapter, merge_adapters
from khala.backbone import Backbone
from khala.codec import Codec
from khala.errors import RequestError
from khala.infer.plan import PARTS, LoadPlan, ModelSize, decide
from khala.machine import give_back, look_at
from khala.song import DTYPES
from khala.superres import SuperResolution

__all__ = ["Models", "load_models"]

EXPECTED_S = 180.0
"""Length of the songs that memory is planned for when a model is loaded."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """The three models of a folder. Those that take turns have no weights between them."""

    codec: Codec
    backbone: Backbone
    superres: SuperResolution
    digests: dict[str, str]
    """sha256 of each part, and of the adapters in it; see ``khala.adapter.merge_adapters``."""

    device: str
    size: ModelSize
    plan: LoadPlan
    loaders: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    """By the name of a part, what brings its weights."""

    def part(self, name: str) -> nn.Module:
        """Return one of the three by its name."""
        found: nn.Module = getattr(self, name)
        return found

    @contextmanager
    def at_work(self, name: str) -> Iterator[None]:
        """Have the weights of a part in memory for as long as it works."""
        load = self.loaders.get(name)
        if load is None:
            yield
            return
        load()
        try:
            yield
        finally:
            self.release(name)

    def release(self, name: str) -> None:
        """Give the memory of a part's weights back."""
        checkpoint.release(self.part(name))
        give_back(self.device)


def load_models(
    folder: Path,
    *,
    device: str,
    dtype: str | None = None,
    turns: bool | None = None,
    adapters: Sequence[Adapter] = (),
) -> Models:
    """Read the models of a folder, as ``khala.infer.plan.decide`` says.

    Args:
        folder: a whole model folder.
        device: where they shall work.
        dtype: what backbone and super-resolution compute in; None: decide.
        turns: whether each has its weights in memory only while it works; None: decide.
        adapters: added to the weights.

    Raises:
        CheckpointError: a part is missing or damaged, or an adapter belongs to another model.
        RequestError: ``dtype`` is none that can be had.
    """
    if dtype is not None and dtype not in DTYPES:
        raise RequestError(f"dtype is {dtype!r}: one of {', '.join(DTYPES)}")
    size = ModelSize.of(folder)
    plan = decide(size, look_at(device), dtype, EXPECTED_S)
    plan = plan if turns is None else replace(plan, turns=turns)
    models = Models(
        codec=Codec.without_weights(folder / "codec"),
        backbone=Backbone.without_weights(folder / "backbone"),
        superres=SuperResolution.without_weights(folder / "superres"),
        digests={part: checkpoint.digest(folder / part) for part in PARTS},
        device=device,
        size=size,
        plan=plan,
    )
    changed: dict[str, str] = {}
    loaders = {}

    def bring(part: str) -> None:
        model = models.part(part)
        if isinstance(model, Codec):
            model.load_weights(folder / part, device=device)
            if device != "cpu":  # there they stay mapped from their file, for a hundredth of time
                model.fold_decoder()
            return
        assert isinstance(model, Backbone | SuperResolution)
        model.load_weights(folder / part, device=device, dtype=plan.stored_as)
        own = [adapter for adapter in adapters if adapter.config.part == part]
        changed.update(merge_adapters(own, {part: model}, models.digests))

    for part in PARTS:
        bring(part)  # also where they take turns: what is damaged is said now
        if plan.turns:
            loaders[part] = lambda part=part: bring(part)
            models.release(part)
    return replace(models, digests={**models.digests, **changed}, loaders=loaders)
