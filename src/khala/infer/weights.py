"""Where a model's folder is: bundled, on disk, or made from what a hub has.

Only a hub id, or a tokenizer of one's own, brings the code that reads other programs' checkpoints.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from khala import checkpoint, hub
from khala.errors import Cancelled, CheckpointError, RequestError
from khala.infer.events import Notice, OnEvent, ShouldStop, StageClock

__all__ = ["find_model", "find_tokenizer"]


def find_model(
    name: str | Path,
    *,
    revision: str | None,
    tokenizer: str | Path | None,
    on_event: OnEvent | None,
    should_stop: ShouldStop | None,
) -> Path:
    """Return a model's folder; a hub id is fetched if it is not kept.

    Arguments and errors are those of `Khala.from_pretrained`.
    """
    if hub.is_hub_id(name):
        hear = _Hearing(on_event, should_stop)
        from khala.convert.fetch import fetch_model

        folder = fetch_model(
            str(name),
            revision=revision,
            tokenizer=tokenizer,
            on_progress=hear.progress,
            on_note=hear.note,
        )
        hear.finish()
        return folder
    if revision is not None:
        raise RequestError(f"revision {revision!r} is for a hub id, and {str(name)!r} is none")
    return checkpoint.resolve_model(name)


def find_tokenizer(folder: Path, given: str | Path | None) -> Path:
    """Return the tokenizer.json of a model folder, or the one given for a folder without it."""
    own = folder / "tokenizer.json"
    if given is None:
        if (folder / "conversion.json").is_file() and not own.is_file():
            raise CheckpointError(
                f"{folder} has no tokenizer.json, as its weights came without one: give a folder "
                "that has it (tokenizer= or --tokenizer)"
            )
        return checkpoint.verify(folder, own.name)
    from khala.convert import fetch

    chosen = fetch.find_tokenizer(given)
    if own.is_file() and own.read_bytes() != chosen.read_bytes():
        raise CheckpointError(f"{own} is there and differs from {given}")
    return chosen


class _Hearing:
    """Turns what is said while weights are fetched into events, and a wish to stop into an end."""

    def __init__(self, on_event: OnEvent | None, should_stop: ShouldStop | None) -> None:
        self._on_event, self._should_stop = on_event, should_stop
        self._clock: StageClock | None = None

    def progress(self, label: str, done: int, total: int) -> None:
        """Hear how far one stage is."""
        if self._should_stop is not None and self._should_stop():
            raise Cancelled("stopped while weights were fetched; the same call goes on")
        if self._clock is None or self._clock.stage != label:
            self.finish()
            self._clock = StageClock(stage=label, total=total, on_event=self._on_event)
        self._clock.report(done)

    def finish(self) -> None:
        """Hear that the last stage is over."""
        if self._clock is not None:
            self._clock.finish()

    def note(self, line: str) -> None:
        """Hear what a person should read."""
        if self._on_event is None:
            warnings.warn(line, stacklevel=4)
        else:
            self._on_event(Notice(code="fetching", message=line))
