"""RUN/curves.png: losses over steps, if matplotlib is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from khala.train.hooks import Hook, read_log
from khala.train.state import TrainState

__all__ = ["Curves", "draw_curves"]

NOT_LOSSES = {"step", "grad_norm", "lr", "per_s", "mfu", "skipped", "num_items", "seconds", "valid"}


NUM_COLOURS = 10
STYLES = ("-", "--", ":", "-.")
"""After ten colours the next style begins."""


class Curves(Hook):
    """Draws the log when the run ends."""

    def at_end(self, state: TrainState) -> None:
        if state.ranks.is_first:
            draw_curves(state.folder)


def draw_curves(run: Path) -> Path | None:
    """Draw the losses of a run's log, training beside validation.

    Returns:
        the picture; None without matplotlib or without a log.
    """
    if find_spec("matplotlib") is None or not (run / "log.jsonl").is_file():
        return None
    from matplotlib.figure import Figure

    lines: list[dict[str, Any]] = read_log(run)
    training = [line for line in lines if "valid" not in line]
    validation = [{"step": line["step"], **line["valid"]} for line in lines if "valid" in line]
    figure = Figure(figsize=(14, 5), layout="constrained")
    panels = zip(
        figure.subplots(1, 2),
        ((training, "training batches", ""), (validation, "unseen songs", "o")),
        strict=True,
    )
    for axes, (rows, title, marker) in panels:
        names = sorted({name for row in rows for name in row} - NOT_LOSSES)
        shown = [name for name in names if not name.endswith("_se")]
        for index, name in enumerate(shown):
            known = [row for row in rows if name in row]
            axes.plot(
                [row["step"] for row in known],
                [row[name] for row in known],
                STYLES[index // NUM_COLOURS % len(STYLES)],
                marker=marker,
                label=name,
                linewidth=1,
            )
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    temporary = run / ".curves.tmp.png"
    figure.savefig(temporary, dpi=110)
    temporary.replace(run / "curves.png")
    return run / "curves.png"
