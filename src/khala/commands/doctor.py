"""``khala doctor``: what this computer can run, and whether everything is there."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from khala import __version__
from khala.commands.terminal import Terminal, add_output_options
from khala.errors import KhalaError
from khala.song import DTYPES

if TYPE_CHECKING:
    from khala.infer import Khala
    from khala.infer.plan import ModelSize
    from khala.machine import Machine

__all__ = ["add_doctor", "run_doctor"]

FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
EXIT_UNWELL = 2
DURATIONS_S = (30, 60, 120, 180, 240, 360)
STAGES = {"backbone": "sketch", "superres": "detail", "codec": "sound"}


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "examples:\n  khala doctor\n  khala doctor --model path/to/model --json\n"
        "  khala doctor --model path/to/model --plan      what would fit; loads nothing\n\n"
        "Exit status 0: songs can be made here; 2: they cannot, and why."
    )
    parser.add_argument("--model", default="nano", metavar="NAME", help="'nano' or a model folder")
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="cpu (default), cuda, cuda:N or mps"
    )
    parser.add_argument(
        "--plan", action="store_true", help="say what fits in memory, and load nothing"
    )
    add_output_options(parser)


def run_doctor(args: argparse.Namespace) -> int:
    """Look at the computer, plan the memory, then load the model and measure two seconds."""
    terminal = Terminal.of(args)
    report = _computer()
    for name, value in report.items():
        _say(terminal, name, " ".join(value) if isinstance(value, list) else str(value))
    report["plan"] = _plan(terminal, args.model, args.device)
    model: dict[str, Any] = {"name": args.model}
    if "error" in report["plan"]:
        model["error"] = report["plan"]["error"]
    elif not args.plan:
        model = _measure(terminal, args.model, args.device)
    report["model"] = model
    if "error" in model:
        _say(terminal, "model", model["error"])
    terminal.document(report)
    return EXIT_UNWELL if "error" in model else 0


def _say(terminal: Terminal, name: str, text: str) -> None:
    terminal.line(f"{name:<14} {text}")


def _computer() -> dict[str, Any]:
    import torch

    from khala.machine import look_at, total_memory

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    total = total_memory()
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
        "memory": "unknown" if total is None else f"{total / 1e9:.1f} GB",
        "free memory": _gigabytes(look_at("cpu").free_bytes),
        "cuda": gpus or ["none"],
    }


def _gigabytes(num_bytes: int | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / 1e9:.1f} GB"


def _cpu_features() -> list[str]:
    """Instruction sets that matter here, as Linux lists them; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return []
    lines = path.read_text().splitlines()
    flags = {flag for line in lines if line.lower().startswith(("flags", "features"))
             for flag in line.split(":", 1)[1].split()}  # fmt: skip
    return [feature for feature in FEATURES if feature in flags]


def _plan(terminal: Terminal, name: str, device: str) -> dict[str, Any]:
    """Say what each stage needs and what fits, from the sizes alone."""
    from khala.checkpoint import resolve_model
    from khala.commands.models import check_device
    from khala.infer.plan import ModelSize
    from khala.machine import look_at

    try:
        machine = look_at(check_device(device))
        size = ModelSize.of(resolve_model(name))
    except KhalaError as error:
        return {"error": str(error)}
    free = _gigabytes(machine.free_bytes)
    _say(terminal, "plan", f"gigabytes on {device}, {free} free; weights and work of every stage")
    heads = "".join(f"{f'{seconds} s':>8}" for seconds in DURATIONS_S)
    terminal.line(f"{'':<35}{heads}")
    kinds = {}
    for dtype in DTYPES:
        if dtype == "float16" and machine.kind == "cpu":
            continue  # no CPU is good at it
        kinds[dtype] = _kind(terminal, size, machine, dtype)
    return {"device": device, "free_bytes": machine.free_bytes, "needs": kinds}


def _kind(terminal: Terminal, size: ModelSize, machine: Machine, dtype: str) -> dict[str, Any]:
    """Say what songs need whose models compute in ``dtype``."""
    from khala.infer.plan import decide, longest_that_fits, needs

    found = {seconds: needs(size, machine, seconds, dtype) for seconds in DURATIONS_S}
    rows = {part: {s: getattr(one, part) for s, one in found.items()} for part in STAGES}
    rows["all weights"] = {s: one.together for s, one in found.items()}
    rows["in turns"] = {s: one.in_turns for s, one in found.items()}
    is_chosen = decide(size, machine, None, DURATIONS_S[3]).dtype == dtype
    for name, row in rows.items():
        cells = "".join(f"{value / 1e9:>8.2f}" for value in row.values())
        label = f"{dtype}{' (chosen)' if is_chosen else ''}" if name == "backbone" else ""
        terminal.line(f"  {label:<20} {STAGES.get(name, name):<12}{cells}")
    fits = {}
    if machine.free_bytes is not None:
        fits = {
            name: longest_that_fits(size, machine, dtype, in_turns=name == "in turns")
            for name in ("all weights", "in turns")
        }
        shown = [f"{name}: {f'up to {s} s' if s else 'no song'}" for name, s in fits.items()]
        terminal.line(f"  {'':<20} fits         {'; '.join(shown)}")
    return {
        "bytes": {name: {str(s): value for s, value in row.items()} for name, row in rows.items()},
        "longest_s": fits,
    }


def _paths(terminal: Terminal, model: Khala, device: str) -> dict[str, str]:
    """Say which of several ways each kind of work goes here."""
    import torch

    from khala.backbone.steps import has_compiled_steps
    from khala.nn.blocked import suits
    from khala.nn.inference import rows_at_once

    plan, is_cpu = model.models.plan, device == "cpu"
    products = plan.products or plan.stored_as
    queries = torch.empty(1, 1, 1, 1, dtype=products, device=device)
    threads = f", {torch.get_num_threads()} threads" if is_cpu else ""
    if plan.has_int8_steps and has_compiled_steps(model.backbone):
        rows = "compiled (numba), one core a stream"
    elif is_cpu:
        rows = f"{rows_at_once(plan.stored_as)} rows at once"
    else:
        rows = "blocks of frames, recorded as a graph" if device.startswith("cuda") else "all rows"
    paths = {
        "sketches": f"{'int8' if plan.has_int8_steps else plan.weights}{threads}, {rows}",
        "passes": f"products in {str(products).removeprefix('torch.')}",
        "attention": "blocks of plain products" if suits(queries) else "torch's own kernel",
        "weights": "in turns" if plan.turns else "all in memory",
    }
    for name, way in paths.items():
        _say(terminal, name, way)
    return paths


def _measure(terminal: Terminal, name: str, device: str) -> dict[str, Any]:
    """Load the model, verify every file of it, and see how fast it is."""
    from khala.checkpoint import resolve_model
    from khala.commands.models import load_khala
    from khala.infer.examine import estimate_speed

    try:
        resolve_model(name)  # looking at a computer fetches nothing
        model = load_khala(name, device)
        speed = estimate_speed(model)
    except KhalaError as error:
        return {"name": name, "error": str(error)}
    _say(terminal, "model", f"{name}: every file has its sha256")
    _say(
        terminal,
        "30 s of song",
        f"about {speed.total_s:.0f} s on {device} (sketch {speed.backbone_s:.0f}, "
        f"detail {speed.superres_s:.0f}, sound {speed.codec_s:.0f})",
    )
    return {
        "name": name,
        "digests": model.digests,
        "dtype": model.models.plan.dtype,
        "paths": _paths(terminal, model, device),
        "turns": model.models.plan.turns,
        "levels": model.superres.config.layout.num_levels,
        "longest_song_s": model.longest_s,
        "estimate_s": {
            "total": round(speed.total_s, 1),
            "backbone": round(speed.backbone_s, 1),
            "superres": round(speed.superres_s, 1),
            "codec": round(speed.codec_s, 1),
        },
    }
