"""What was found, printed, and kept with the date, the computer and the command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from khala.evals import report

__all__ = ["keep"]

RESULTS = Path(__file__).resolve().parents[1] / "results"


def keep(name: str, found: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Print what was found; with ``--keep`` write it to ``benchmarks/results/serve-NAME.json``."""
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    if args.keep:
        command = " ".join(["python -m serving." + Path(sys.argv[0]).stem, *sys.argv[1:]])
        stamp = {**report.circumstances(name, {}), "command": command}
        report.write_result(RESULTS / f"serve-{name}.json", {**stamp, **found})
