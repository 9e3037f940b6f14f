"""How a worker process behaves towards the process that started it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading


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
