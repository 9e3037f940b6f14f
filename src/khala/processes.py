"""How processes behave towards each other: workers and their parent, two writers of one folder."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on every system; there, nobody notices a second process
    fcntl = None  # type: ignore[assignment]


def obey_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it does.

    The parent lets the song in work finish; a worker that heard Ctrl-C itself would print a
    traceback. And one whose parent was killed would wait for work for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def alone_in(folder: Path, on_busy: Callable[[], None]) -> Iterator[None]:
    """Work in a folder while no other process does; a killed one keeps nobody out.

    Args:
        folder: is there.
        on_busy: called when another process is at work; raises, or lets this one wait.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            on_busy()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
