"""RUN/curves.png: losses over steps, if matplotlib is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from khala.train.hooks import Hook, read_log
from khala.train.state import TrainState

__all__ = ["Curves", "draw_curves"]

NOT_LOSSES = {"step", "grad_norm", "lr", "per_s", "num_items", "seconds", "valid"}


class Curves(Hook):
    """Draws the log when the run ends."""

    def at_end(self, state: TrainState) -> None:
        draw_curves(state.folder)


def draw_curves(run: Path) -> Path | None:
    """Draw every loss of a run's log; return the picture, or None without matplotlib."""
    if find_spec("matplotlib") is None or not (run / "log.jsonl").is_file():
        return None
    from matplotlib.figure import Figure

    lines: list[dict[str, Any]] = read_log(run)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    training = [line for line in lines if "valid" not in line]
    validation = [{"step": line["step"], **line["valid"]} for line in lines if "valid" in line]
    for rows, style, mark in ((training, "-", ""), (validation, "--", "valid ")):
        names = sorted({name for row in rows for name in row} - NOT_LOSSES)
        for name in names:
            known = [row for row in rows if name in row]
            axes.plot(
                [row["step"] for row in known],
                [row[name] for row in known],
                style,
                label=f"{mark}{name}",
                linewidth=1,
            )
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=6, ncols=3)
    temporary = run / ".curves.tmp.png"
    figure.savefig(temporary, dpi=110)
    temporary.replace(run / "curves.png")
    return run / "curves.png"
