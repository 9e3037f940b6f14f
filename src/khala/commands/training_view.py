"""A run while it trains, on a terminal: losses and their course, speed, time left."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from khala.commands.terminal import Terminal

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from khala.train.standing import Standing

__all__ = ["TrainingView"]

BARS = "▁▂▃▄▅▆▇█"
NUM_SHOWN = 40
"""Lines of the log whose losses are drawn."""

MAX_TERMS = 8


class TrainingView:
    """Draws the last standing of a run in place; messages go above it. Lines elsewhere."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.is_live = not terminal.quiet and sys.stderr.isatty()
        self._live: Live | None = None
        self._course: list[float] = []
        self._last: Standing | None = None

    def __enter__(self) -> TrainingView:
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """Say something that is no standing."""
        if self._live is None:
            self.terminal.note(text)
        else:
            self._live.console.print(f"khala: {text}", markup=False, highlight=False)

    def step(self, standing: Standing) -> None:
        """Draw where the run is."""
        before = {} if self._last is None else self._last.losses
        if standing.losses and standing.losses is not before:
            self._course = [*self._course, standing.losses["loss"]][-NUM_SHOWN:]
        self._last = standing
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=4)
            self._live.start()
        self._live.update(drawn(standing, self._course))


def drawn(standing: Standing, course: list[float]) -> RenderableType:
    """Return a standing as three lines: how far, how fast, how well."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from khala.train.hooks import clock

    first = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=standing.num_steps, completed=standing.step, width=30)
    left = "" if standing.left_s is None else f"{clock(standing.left_s)} left"
    first.add_row(standing.kind, bar, f"step {standing.step}/{standing.num_steps}", left)
    if not standing.losses:
        return first
    speed = f"{standing.per_s:,.0f} {standing.unit}/s"
    if standing.mfu:
        speed += f", {standing.mfu:.0%} of what the machine can"
    speed += f"   lr {standing.lr:.2e}   gradient {standing.grad_norm:.3g}"
    terms = [f"{k} {v:.4g}" for k, v in standing.losses.items() if k != "loss"][:MAX_TERMS]
    loss = Text(f"loss {standing.losses['loss']:.4f}  ", style="bold")
    loss.append(sparkline(course), style="green")
    return Group(first, loss, Text("  ".join(terms)), Text(speed, style="dim"))


def sparkline(values: list[float]) -> str:
    """Return numbers as bars from their least to their greatest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)
