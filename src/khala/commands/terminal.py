"""What a command says, where it says it, and how it is stopped.

Results go to stdout: as lines for people, or with ``--json`` as one document. Progress, notices
and errors go to stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from khala.infer.events import Event, OnEvent

__all__ = ["Counter", "Stages", "StopFlag", "Terminal", "add_output_options", "stopping"]

STAGE_NAMES = {
    "backbone": "sketch (levels 1-2)",
    "superres": "detail (levels 3-64)",
    "codec": "sound",
}


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """``--json`` and ``--quiet``, the same for every command."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")


@dataclass(frozen=True, kw_only=True, slots=True)
class Terminal:
    """Where a command's words go."""

    json: bool
    quiet: bool

    @classmethod
    def of(cls, args: argparse.Namespace) -> Terminal:
        """Read the options of :func:`add_output_options`."""
        return cls(json=args.json, quiet=args.quiet)

    def line(self, text: str) -> None:
        """A result for people."""
        if not self.json:
            sys.stdout.write(text + "\n")

    def document(self, values: Mapping[str, Any]) -> None:
        """The result for machines."""
        if self.json:
            sys.stdout.write(json.dumps(values, indent=2, ensure_ascii=True) + "\n")

    def note(self, text: str) -> None:
        """Something to know that is no result."""
        if not self.quiet:
            sys.stderr.write(f"khala: {text}\n")


@dataclass(kw_only=True, slots=True)
class StopFlag:
    """Whether the user pressed Ctrl-C."""

    asked: bool = False

    def __call__(self) -> bool:
        return self.asked


@contextmanager
def stopping(terminal: Terminal) -> Iterator[StopFlag]:
    """Turn the first Ctrl-C (or SIGTERM) into a request to finish cleanly; a second one aborts."""
    flag = StopFlag()

    def handle(signum: int, frame: object) -> None:  # noqa: ARG001
        if flag.asked:
            raise KeyboardInterrupt
        flag.asked = True
        terminal.note("stopping; what is finished will be saved (again to abort)")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(kw_only=True)
class Stages:
    """Listens to a pipeline: draws bars on a terminal, or a line per stage elsewhere.

    Use as a context manager; ``timings_s`` and ``notices`` keep what was heard of each song.
    """

    terminal: Terminal
    num_songs: int = 1
    timings_s: dict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    notices: dict[int, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    bars: Bars | None = None
    tasks: dict[tuple[int, str], TaskID] = field(default_factory=dict)

    def __enter__(self) -> Stages:
        if not self.terminal.quiet and sys.stderr.isatty():
            self.bars = progress_bars()
            self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def of(self, song: int) -> OnEvent:
        """Return what hears the events of one of several songs, which do not say which."""
        return lambda event: self(dataclasses.replace(event, song=song))

    def __call__(self, event: Event) -> None:
        """Hear one event."""
        from khala.infer.events import Notice, Preview

        if isinstance(event, Preview):
            return
        if isinstance(event, Notice):
            self.notices[event.song].append(
                {"code": event.code, "message": event.message, "value": event.value}
            )
            if self.bars is not None:
                self.bars.console.print(f"khala: {event.message}", markup=False, highlight=False)
            else:
                self.terminal.note(event.message)
            return
        self.timings_s[event.song][event.stage] = round(event.elapsed_s, 3)
        title = f"{event.song + 1}/{self.num_songs} " if self.num_songs > 1 else ""
        name = title + STAGE_NAMES.get(event.stage, event.stage)
        place = event.song, event.stage
        if self.bars is not None:
            if place not in self.tasks:
                self.tasks[place] = self.bars.add_task(name, total=event.total, left="")
            left = "" if event.eta_s is None else f"{event.eta_s:.0f} s left"
            if event.done == event.total:
                left = f"{event.elapsed_s:.1f} s"
            self.bars.update(self.tasks[place], completed=event.done, left=left)
        elif event.done == event.total:
            self.terminal.note(f"{name}: {event.total} in {event.elapsed_s:.1f} s")


@dataclass(kw_only=True)
class Counter:
    """Shows ``(label, done, total)`` as bars on a terminal, or every tenth part elsewhere."""

    terminal: Terminal
    bars: Bars | None = None
    tasks: dict[str, TaskID] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    first: dict[str, tuple[int, float]] = field(default_factory=dict)
    """What was done already when each label was first heard, and when: resumed work is no speed."""

    def __enter__(self) -> Counter:
        if not self.terminal.quiet and sys.stderr.isatty():
            self.bars = progress_bars()
            self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def __call__(self, label: str, done: int, total: int) -> None:
        """Hear that ``done`` of ``total`` are finished."""
        before = self.last.get(label, 0)
        self.last[label] = done
        begun, started_s = self.first.setdefault(label, (done, time.monotonic()))
        made = done - begun
        left = ""
        if made:
            left = f"{(time.monotonic() - started_s) / made * (total - done):.0f} s left"
        if self.bars is None:
            if done and done * 10 // total != before * 10 // total:
                self.terminal.note(f"{label}: {done} of {total}{left and ', ' + left}")
            return
        if label not in self.tasks:
            self.tasks[label] = self.bars.add_task(label, total=total, left="")
        self.bars.update(self.tasks[label], completed=done, total=total, left=left)


def progress_bars() -> Bars:
    """Bars on stderr: label, bar, count, time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
    )
