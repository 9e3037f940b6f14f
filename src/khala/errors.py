"""Every error Khala raises on purpose, and what each means to the person who meets it.

    KhalaError
    |-- ConfigError        a recipe or setting cannot describe a run
    |-- RequestError       the caller asked for something no song can be
    |-- AudioError         a file is not audio we can read or write
    |-- TokenError         ids outside the alphabet, or in the wrong place
    |-- CheckpointError    weights and config on disk do not agree, or are damaged
    |-- CorpusError        songs or shards on disk are missing, unfinished or damaged
    |-- CapacityError      we could, but not now: memory or disk is short
    |-- Cancelled          the caller went away; carries what was finished
    `-- StageError         a stage of the pipeline failed; carries its name and what was finished

Messages name what was wrong and what is allowed, in one line: the command line prints them as
they are and leaves with status 2.
"""

from __future__ import annotations


class KhalaError(Exception):
    """The root of the tree: catch this to catch everything Khala raises on purpose."""


class ConfigError(KhalaError):
    """A recipe or setting cannot describe a run."""


class RequestError(KhalaError):
    """The caller asked for something no song can be."""


class AudioError(KhalaError):
    """A file is not audio we can read, or a name is not a format we can write."""


class TokenError(KhalaError):
    """Ids outside the alphabet, or in the wrong place."""


class CheckpointError(KhalaError):
    """Weights and config on disk do not agree, or a file is missing or damaged."""


class CorpusError(KhalaError):
    """Songs or shards on disk are missing, unfinished or damaged."""


class CapacityError(KhalaError):
    """The work is valid, but memory or disk does not allow it now."""


class Cancelled(KhalaError):
    """The caller stopped the work; ``finished`` holds what was done, if it can be played."""

    def __init__(self, message: str, *, finished: object | None = None) -> None:
        super().__init__(message)
        self.finished = finished


class StageError(KhalaError):
    """A stage of the pipeline failed: ``stage`` names it, ``__cause__`` says why.

    ``finished`` holds what was done before, if it can be played.
    """

    def __init__(self, message: str, *, stage: str, finished: object | None = None) -> None:
        super().__init__(message)
        self.stage, self.finished = stage, finished
