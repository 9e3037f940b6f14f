"""``khala doctor``: what this computer can run, and whether everything is there."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path
from typing import Any

from khala import __version__
from khala.commands.terminal import Terminal, add_output_options
from khala.errors import KhalaError

__all__ = ["add_doctor", "run_doctor"]

FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
EXIT_UNWELL = 2


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "examples:\n  khala doctor\n  khala doctor --model path/to/model --json\n\n"
        "Exit status 0: songs can be made here; 2: they cannot, and why."
    )
    parser.add_argument("--model", default="nano", metavar="NAME", help="'nano' or a model folder")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda")
    add_output_options(parser)


def run_doctor(args: argparse.Namespace) -> int:
    """Look at the computer and the model, measure two seconds, and report."""
    terminal = Terminal.of(args)
    report = {**_computer(), "model": _model(args.model, args.device)}
    for name, value in report.items():
        if name != "model":
            shown = " ".join(value) if isinstance(value, list) else value
            terminal.line(f"{name:<14} {shown}")
    model = report["model"]
    if "error" in model:
        terminal.line(f"{'model':<14} {model['error']}")
    else:
        terminal.line(f"{'model':<14} {model['name']}: every file has its sha256")
        seconds = model["estimate_s"]
        terminal.line(
            f"{'30 s of song':<14} about {seconds['total']:.0f} s on {args.device} "
            f"(sketch {seconds['backbone']:.0f}, detail {seconds['superres']:.0f}, "
            f"sound {seconds['codec']:.0f})"
        )
    terminal.document(report)
    return EXIT_UNWELL if "error" in model else 0


def _computer() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "khala": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu features": _cpu_features() or ["unknown"],
        "memory": _memory(),
        "cuda": gpus or ["none"],
    }


def _cpu_features() -> list[str]:
    """Instruction sets that matter here, as Linux lists them; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return []
    lines = path.read_text().splitlines()
    flags = {flag for line in lines if line.lower().startswith(("flags", "features"))
             for flag in line.split(":", 1)[1].split()}  # fmt: skip
    return [feature for feature in FEATURES if feature in flags]


def _memory() -> str:
    if sys.platform == "win32":
        return "unknown"
    num_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{num_bytes / 2**30:.1f} GiB"


def _model(name: str, device: str) -> dict[str, Any]:
    from khala.checkpoint import resolve_model
    from khala.commands.models import load_khala
    from khala.infer.examine import estimate_speed

    try:
        resolve_model(name)  # looking at a computer fetches nothing
        model = load_khala(name, device)
        speed = estimate_speed(model)
    except KhalaError as error:
        return {"name": name, "error": str(error)}
    return {
        "name": name,
        "digests": model.digests,
        "levels": model.superres.config.layout.num_levels,
        "longest_song_s": model.longest_s,
        "estimate_s": {
            "total": round(speed.total_s, 1),
            "backbone": round(speed.backbone_s, 1),
            "superres": round(speed.superres_s, 1),
            "codec": round(speed.codec_s, 1),
        },
    }
