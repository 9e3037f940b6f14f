"""Timing whole songs: stage by stage, until the first sound, of several lengths, several at once.

Shape letters: Q levels, T frames.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from khala.backbone.steps import has_compiled_steps, steps_of
from khala.backbone.writing import NOISE_FRAMES, Writer, Writing, WritingSettings
from khala.errors import Cancelled
from khala.evals.speed.sizes import Timed
from khala.evals.speed.stages import codes_of, our_pass, our_token, prompt_of
from khala.infer import Event, Khala, Preview, PreviewSettings, Progress
from khala.machine import look_at
from khala.nn.inference import InferenceTrunk
from khala.song import Song, SongRequest
from khala.superres.complete import Completion, Sketch
from khala.tokens import COARSE_LEVELS

__all__ = [
    "NUM_PROMPT",
    "STAGES",
    "TimedSong",
    "peak_memory_gb",
    "songs_of_lengths",
    "variants",
    "whole_song",
]

LYRICS = "[Verse]\nI walk alone along the silent river\nand every light is calling out my name"
STAGES = ("backbone", "superres", "codec", "whole")
NUM_PROMPT = 300

TimedSong = dict[str, float]
"""Seconds of each of ``STAGES`` and of the "song"; what else there is, its function says."""


def whole_song(model: Khala, duration_s: float, levels: int | None = None) -> TimedSong:
    """Make a song of the usual request twice: until its "first sound", and whole."""
    seconds = {"first sound": _first_sound_s(model, duration_s)}
    started_s = time.perf_counter()

    def hear(event: Event) -> None:
        if isinstance(event, Progress):
            seconds[event.stage] = event.elapsed_s

    most = model.superres.config.layout.num_levels
    song = model.generate(_request(duration_s, levels or most, seed=7), on_event=hear)
    model.decode(song, on_event=hear)
    return {**seconds, "whole": time.perf_counter() - started_s, "song": song.duration_s}


def variants(model: Khala, num: int, duration_s: float) -> tuple[float, float]:
    """Make variants of a song beside each other, without sound; return the seconds and theirs."""
    most = model.superres.config.layout.num_levels
    requests = [_request(duration_s, most, seed=seed) for seed in range(num)]
    started_s = time.perf_counter()
    songs = model.generate_many(requests)
    seconds = time.perf_counter() - started_s
    return seconds, sum(one.duration_s for one in songs if isinstance(one, Song))


def songs_of_lengths(timed: Timed, lengths_s: Sequence[float]) -> list[TimedSong]:
    """Make songs of these lengths with a prompt of random tokens, so that any weights will do.

    Beside each stage stands what it should take if nothing but attention grew with the song:
    "backbone expected" from the time of single tokens at the beginning and at the end of the
    longest song, "superres expected" from that of single passes over the shortest and the longest.
    "GB" is the most memory that the process held meanwhile.
    """
    makes = _Maker(timed)
    lengths_s = sorted(lengths_s)
    makes.song(min(lengths_s[0], 2.0))  # what is done once is not counted
    songs = [makes.song(seconds) for seconds in lengths_s]
    first, last = (timed.positions(seconds) for seconds in (lengths_s[0], lengths_s[-1]))
    end = NUM_PROMPT + COARSE_LEVELS * max(last - NOISE_FRAMES, 1)
    at_s = {place: makes.token_s(place) for place in (NUM_PROMPT, end)}
    growth_s = (at_s[end] - at_s[NUM_PROMPT]) / (end - NUM_PROMPT)
    pass_s = {num: makes.pass_s(num) for num in {first, last}}
    rows = {num: NUM_PROMPT + num for num in pass_s}
    per_row = {num: pass_s[num] / rows[num] for num in rows}
    slope = 0.0
    if first != last:
        slope = (per_row[last] - per_row[first]) / (rows[last] - rows[first])
    for song in songs:
        num_frames = timed.positions(song["song"])
        num_tokens, num_rows = COARSE_LEVELS * num_frames, NUM_PROMPT + num_frames
        mean_s = at_s[NUM_PROMPT] + growth_s * num_tokens / 2
        song["backbone expected"] = num_tokens * mean_s
        num_passes = timed.superres.config.layout.num_levels - COARSE_LEVELS
        per = per_row[first] + slope * (num_rows - rows[first])
        song["superres expected"] = num_passes * num_rows * per
    return songs


class _Maker:
    """Makes songs of one model in the numbers that are the default for it here."""

    def __init__(self, timed: Timed) -> None:
        self._timed = timed
        is_small = has_compiled_steps(timed.backbone)
        self._writer = Writer(timed.backbone, steps_of(timed.backbone, has_int8_steps=is_small))
        products = torch.bfloat16 if look_at("cpu").has_bfloat16 else None
        self._trunk = InferenceTrunk(timed.superres, products)
        self._scale = timed.backbone.config.guidance_scale

    def token_s(self, num_read: int) -> float:
        """Return the seconds of a token, the least of a few."""
        timed = (self._timed, self._writer, self._scale, num_read)
        return min(our_token(*timed) for _ in range(5))

    def pass_s(self, num_frames: int) -> float:
        """Return the seconds of a pass, the least of a few."""
        codes_QT = codes_of(self._timed, num_frames)
        level = self._timed.superres.config.layout.num_levels // 2
        work = (self._timed, self._trunk, prompt_of(NUM_PROMPT), codes_QT, level)
        return min(our_pass(*work) for _ in range(3))

    @torch.inference_mode()
    def song(self, seconds: float) -> TimedSong:
        """Make a song of exactly this length."""
        timed, num_frames = self._timed, self._timed.positions(seconds)
        prompt_S = prompt_of(NUM_PROMPT)
        settings = WritingSettings(
            num_frames_min=num_frames, num_frames_max=num_frames, temperature=1.0, top_k=80,
            seed=1, guidance_scale=self._scale,
        )  # fmt: skip
        writing = Writing(timed.backbone, prompt_S, settings, bare_S=prompt_S)
        forget_peak_memory()
        ends_s = [time.perf_counter()]
        self._writer.begin(writing)
        while not writing.is_done:
            self._writer.write_frame([writing])
        ends_s.append(time.perf_counter())
        config = timed.superres.config
        completion = Completion(
            timed.superres,
            Sketch(prompt_S=prompt_S, codes_QT=writing.codes_2T, seed=1),
            trunk=self._trunk,
            top_k=config.sampling_top_k,
            temperature=config.sampling_temperature,
        )
        while completion.num_levels < config.layout.num_levels:
            completion.add_level()
        ends_s.append(time.perf_counter())
        timed.codec.decode(completion.codes_QT[None])
        ends_s.append(time.perf_counter())
        spent = [stop - start for start, stop in itertools.pairwise(ends_s)]
        each = dict(zip(STAGES, (*spent, sum(spent)), strict=True))
        return {**each, "song": seconds, "GB": peak_memory_gb()}


def forget_peak_memory() -> None:
    """Have `peak_memory_gb` tell of what comes, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_gb() -> float:
    """Return the most memory this process has held, or has since it was to be forgotten."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e9
    # its unit is the system's
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _first_sound_s(model: Khala, duration_s: float) -> float:
    """Return after how long the beginning of a song's sketch can be heard; no more is made."""
    heard_s: list[float] = []
    started_s = time.perf_counter()

    def hear(event: Event) -> None:
        if isinstance(event, Preview):
            heard_s.append(time.perf_counter() - started_s)

    with contextlib.suppress(Cancelled):
        model.generate(
            _request(duration_s, COARSE_LEVELS, seed=7),
            on_event=hear,
            should_stop=lambda: bool(heard_s),
            previews=PreviewSettings(),
        )
    return heard_s[0]


def _request(duration_s: float, levels: int, seed: int) -> SongRequest:
    return SongRequest(
        prompt="female vocal, pop, piano", lyrics=LYRICS, duration_s=duration_s, seed=seed,
        levels=levels,
    )  # fmt: skip
