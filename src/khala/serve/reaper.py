"""A short process that passes a dead worker's songs on: it takes its name, and its jobs with it.

The job engine gives back what a worker had begun when a worker of that name starts. This one
starts, listens to no queue, and leaves.
"""

from __future__ import annotations

import json
import sys
import time

from dbos import DBOS

from khala.serve.durable import WORKFLOW, engine_config
from khala.serve.settings import Settings

__all__ = ["main"]

LONG_ENOUGH_S = 1.5
"""For the engine to put everything back into its queue."""


def main() -> int:
    """Read a line of settings from stdin, and pass on the songs of the worker it names."""
    line = json.loads(sys.stdin.readline())
    DBOS(config=engine_config(Settings.from_json(line["settings"]), line["name"]))

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=1_000_000)
    def song(job: str) -> str:
        """Stand for the workflow; it is never run here."""
        raise AssertionError(job)

    DBOS.listen_queues([])
    DBOS.launch()
    time.sleep(LONG_ENOUGH_S)
    DBOS.destroy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
