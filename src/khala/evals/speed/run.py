"""The benchmark: stages against the reference and the floors, whole songs, lengths, many songs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from khala.errors import ConfigError
from khala.evals import plots, report
from khala.evals.speed import songs as songs_room
from khala.evals.speed.ceilings import Ceilings, energy_joules, measure_ceilings
from khala.evals.speed.sizes import SIZES, Timed, load_timed
from khala.evals.speed.songs import (
    NUM_PROMPT,
    peak_memory_gb,
    songs_of_lengths,
    variants,
    whole_song,
)
from khala.evals.speed.stages import (
    Timing,
    body_numbers,
    codec_arms,
    decode_arms,
    decode_bytes,
    in_turns,
    pass_arms,
    pass_flops,
    pass_seconds,
)
from khala.infer import Khala
from khala.tokens import COARSE_LEVELS

__all__ = ["BenchSettings", "run_bench"]

STAGES = ("decode", "superres", "codec", "song")

Lines: TypeAlias = dict[str, Sequence[tuple[float, float]]]
"""What is drawn: seconds of song and seconds to make them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSettings:
    """What is timed."""

    model: str = "nano"
    """A model, or a size of `khala.evals.speed.sizes.SIZES` with random weights."""

    stages: tuple[str, ...] = STAGES
    duration_s: float = 30.0
    """Of the songs."""

    runs: int = 5
    """Of each arm, after one that does not count."""

    lengths_s: tuple[float, ...] = ()
    """Of songs that are made one by one, for the cost of a song against its length."""

    batches: tuple[int, ...] = ()
    """Numbers of songs that are made beside each other."""

    threads: int | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.stages) - set(STAGES))
        if unknown or not self.stages:
            raise ConfigError(f"stages are some of {', '.join(STAGES)}, not {', '.join(unknown)}")
        if self.runs < 1 or self.duration_s <= 0 or (self.threads or 1) < 1:
            raise ConfigError("runs, duration and threads are above 0")
        if any(value <= 0 for value in (*self.lengths_s, *self.batches)):
            raise ConfigError("lengths and batches are above 0")
        if self.model in SIZES and ("song" in self.stages or self.batches):
            raise ConfigError(
                f"{self.model} has random weights and no tokenizer: no stage song and no batches, "
                "only --stages decode,superres,codec and --lengths"
            )


def run_bench(
    settings: BenchSettings,
    *,
    out: Path | None = None,
    arguments: Mapping[str, object] | None = None,
    on_message: report.OnMessage = report.ignore_messages,
) -> dict[str, Any]:
    """Time what ``settings`` say; return plain values, with tables.

    Args:
        settings: what to time.
        out: where bench.json, bench.html and bench.png are written.
        arguments: of the command, for the record.
        on_message: hears what is being done.

    Raises:
        CheckpointError: no such model.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    on_message("ceilings of this machine")
    timed = load_timed(settings.model)
    roof = measure_ceilings(body_numbers(timed.backbone.config.trunk) * 4)
    result: dict[str, Any] = {
        "model": timed.name,
        "num_threads": torch.get_num_threads(),
        "ceilings": dataclasses.asdict(roof),
        "tables": [],
        "notes": [],
    }
    before_j = energy_joules()
    model = Khala.from_pretrained(settings.model) if settings.model not in SIZES else None
    for stage in settings.stages:
        on_message(f"timing: {stage}")
        if stage in _STAGE:
            _STAGE[stage](settings, timed, roof, result)
        elif model is not None:
            _song(settings, model, result)
    lines: Lines = {}
    peaks_gb = [peak_memory_gb()]
    if settings.lengths_s:
        on_message("the cost of a song against its length")
        lines |= _lengths(settings, timed, result)
        peaks_gb += [song["GB"] for song in result["lengths"]]
    if model is not None and settings.batches:
        on_message("several songs beside each other")
        lines |= _batches(settings, model, result)
    after_j = energy_joules()
    result["energy_j"] = None if before_j is None or after_j is None else after_j - before_j
    result["peak_memory_gb"] = max(*peaks_gb, peak_memory_gb())
    result["notes"].append(_circumstances(result, roof))
    command = report.circumstances("bench", arguments or {})["command"]
    result["command"] = command.replace("khala eval bench", "khala bench")
    return report.finish(
        "bench",
        result,
        arguments={},
        out=out,
        draw=None if not lines else lambda path: _draw(path, lines),
    )


def _decode(settings: BenchSettings, timed: Timed, roof: Ceilings, result: dict[str, Any]) -> None:
    """Time tokens at the beginning, the middle and the end of a song."""
    num_tokens = COARSE_LEVELS * timed.positions(settings.duration_s)
    contexts = tuple(NUM_PROMPT + num_tokens * part // 2 for part in range(3))
    guided = timed.backbone.config.guidance_scale != 1.0
    timings = in_turns(decode_arms(timed, contexts, guided=guided), runs=settings.runs)
    moved = decode_bytes(timed, sum(contexts) / len(contexts), guided=guided)
    least = moved["and only scores that can be sampled"]
    rate = roof.read_weights_gb_s * 1e9
    floor_s = least / rate
    result["decode"] = _record(timings, floor_s, num_tokens, moved)
    result["tables"].append(
        _table(
            f"Backbone, one token after {contexts[0]} to {contexts[-1]} others; floor "
            f"{1e3 * floor_s:.2f} ms: {least / 1e6:.0f} MB at {roof.read_weights_gb_s:.0f} GB/s",
            timings, "ms a token", 1e3, floor_s, settings.duration_s / num_tokens, moved,
        )
    )  # fmt: skip


def _superres(
    settings: BenchSettings, timed: Timed, roof: Ceilings, result: dict[str, Any]
) -> None:
    """Time passes."""
    num_frames = timed.positions(settings.duration_s)
    config = timed.superres.config
    num_passes = config.layout.num_levels - COARSE_LEVELS
    arms = pass_arms(timed, num_prompt=NUM_PROMPT, num_frames=num_frames)
    timings = in_turns(arms, runs=settings.runs)
    flops = pass_flops(timed, NUM_PROMPT + num_frames, num_frames)
    best = max(roof.float32_tflop_s, roof.bfloat16_tflop_s)
    floor_s = flops / (best * 1e12)
    counted = pass_seconds(timed, roof, num_prompt=NUM_PROMPT, num_frames=num_frames)
    result["superres"] = _record(timings, floor_s, num_passes, counted)
    result["tables"].append(
        _table(
            f"Super-resolution, one pass over {NUM_PROMPT} + {num_frames} positions; floor "
            f"{1e3 * floor_s:.1f} ms: {flops / 1e9:.1f} GFLOP at {best:.2f} TFLOP/s",
            timings, "ms a pass", 1e3, floor_s, settings.duration_s / num_passes, counted,
        )
    )  # fmt: skip


def _codec(settings: BenchSettings, timed: Timed, _: Ceilings, result: dict[str, Any]) -> None:
    """Time a song's sound."""
    num_frames = timed.positions(settings.duration_s)
    timings = in_turns(codec_arms(timed, num_frames=num_frames), runs=settings.runs)
    result["codec"] = _record(timings, None, 1)
    result["tables"].append(
        _table(f"Codec, {num_frames} frames", timings, "s", 1.0, None, settings.duration_s)
    )


def _song(settings: BenchSettings, model: Khala, result: dict[str, Any]) -> None:
    """Time whole songs, and how long it takes until something is heard."""
    whole_song(model, 2.0, levels=8)
    songs = [whole_song(model, settings.duration_s) for _ in range(settings.runs)]
    result["song"] = songs
    middle = sorted(songs, key=lambda one: one["whole"])[len(songs) // 2]
    rows: list[list[report.Cell]] = [
        [name, middle[name], middle["song"] / middle[name]]
        for name in ("first sound", *songs_room.STAGES)
    ]
    columns = ["", "s", "times real time"]
    result["tables"].append(
        report.table(f"A song of {middle['song']:.1f} s, {model.models.plan.dtype}", columns, rows)
    )


def _lengths(settings: BenchSettings, timed: Timed, result: dict[str, Any]) -> Lines:
    """Make songs of several lengths."""
    songs = songs_of_lengths(timed, settings.lengths_s)
    result["lengths"] = songs
    shown = ("backbone", "backbone expected", "superres", "superres expected", "codec", "whole")
    rows = [
        [one["song"], *(one[name] for name in shown), one["whole"] / one["song"], one["GB"]]
        for one in songs
    ]
    columns = ["song, s", *(f"{name}, s" for name in shown), "seconds a second", "GB at most"]
    result["tables"].append(report.table("The cost of a song against its length", columns, rows))
    return {
        f"one song: {name}": [(one["song"], one[name]) for one in songs]
        for name in songs_room.STAGES
    }


def _batches(settings: BenchSettings, model: Khala, result: dict[str, Any]) -> Lines:
    """Make several songs beside each other."""
    rows: list[list[report.Cell]] = []
    points = []
    for num in settings.batches:
        seconds, length_s = variants(model, num, settings.duration_s)
        rows.append([num, seconds, length_s / seconds, peak_memory_gb()])
        points.append((length_s, seconds))
    result["batches"] = rows
    columns = ["songs", "s", "times real time", "GB at most"]
    title = "Variants of a song beside each other, without their sound"
    result["tables"].append(report.table(title, columns, rows))
    return {"variants beside each other": points}


def _record(
    timings: Mapping[str, Timing],
    floor_s: float | None,
    per_song: int,
    counted: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    arms = {name: dataclasses.asdict(timing) for name, timing in timings.items()}
    if counted is not None:
        for name, gain in _gains(counted).items():
            if name in arms:
                arms[name]["predicted_times_faster"] = gain
    return {"floor_s": floor_s, "times_a_song": per_song, "arms": arms}


def _gains(counted: Mapping[str, float]) -> dict[str, float]:
    """Return how many times less each arm has to do than the first."""
    first = next(iter(counted.values()))
    return {name: first / cost for name, cost in counted.items()}


def _table(
    title: str,
    timings: Mapping[str, Timing],
    unit: str,
    scale: float,
    floor_s: float | None,
    sound_s: float,
    counted: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return a line per arm: its time, its gain measured and by arithmetic, and the floor."""
    rows: list[list[report.Cell]] = []
    gains = {} if counted is None else _gains(counted)
    first = next(iter(timings.values())).median_s
    for name, timing in timings.items():
        rows.append(
            [
                name, scale * timing.median_s, scale * timing.least_s, scale * timing.most_s,
                first / timing.median_s, gains.get(name),
                None if floor_s is None else floor_s / timing.median_s,
                sound_s / timing.median_s,
            ]
        )  # fmt: skip
    columns = ["", f"{unit}, median", "least", "most", "times faster", "predicted",
               "of the floor", "times real time"]  # fmt: skip
    return report.table(title, columns, rows)


def _circumstances(result: Mapping[str, Any], roof: Ceilings) -> str:
    energy = result["energy_j"]
    used = "energy: not readable here" if energy is None else f"energy: {energy:.0f} J in all"
    return (
        f"{result['model']}, {result['num_threads']} threads; roofs: memory "
        f"{roof.read_gb_s:.0f} GB/s, the backbone's weights {roof.read_weights_gb_s:.0f} GB/s, "
        f"float32 {roof.float32_tflop_s:.2f} and bfloat16 {roof.bfloat16_tflop_s:.2f} TFLOP/s; "
        f"at most {result['peak_memory_gb']:.2f} GB; {used}"
    )


def _draw(path: Path, lines: Lines) -> None:
    panel = plots.Panel(
        title="Seconds to make", x_label="seconds of song", series=lines, is_log=False
    )
    plots.save_curves(path, [panel], on_message=report.ignore_messages)


_STAGE = {"decode": _decode, "superres": _superres, "codec": _codec}
