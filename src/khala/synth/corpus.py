"""Writing a corpus: many songs in parallel, each whole or not there, resumable at any point.

DIR/corpus.json              what was asked
DIR/songs/000123/mix.flac    44.1 kHz stereo, 16 bit
DIR/songs/000123/song.json   the ground truth, written last: without it the song is unfinished
DIR/songs/000123/vocals.flac, band.flac    with stems
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from khala.errors import ConfigError, CorpusError
from khala.processes import alone_in, obey_parent
from khala.synth.band import check_band
from khala.synth.form import plan_song
from khala.synth.mix import RATE_HZ
from khala.synth.render import RenderedSong, Studio, render_song
from khala.synth.truth import song_id
from khala.synth.voicebank import check_world
from khala.synth.voicestore import default_folder, ensure_banks

GENERATOR_VERSION = 1
"""Raised with every change that changes a song's sound or truth."""

Progress = Callable[[str, int, int], None]
"""Called with what is being made (``voices`` or ``songs``), how many are done, and of how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    out: Path
    seed: int
    stems: bool
    tiny: bool
    soundfont: Path | None
    banks: Path


def write_corpus(
    out: Path, *, hours: float, seed: int, workers: int = 2, stems: bool = False,
    tiny: bool = False, progress: Progress | None = None, soundfont: Path | None = None,
    voices: Path | None = None,
) -> int:  # fmt: skip
    """Write songs of at least ``hours`` together into ``out``; returns their number.

    A song depends only on (seed, its index): what is there already is kept, so a killed run
    goes on where it was and more hours only add songs. ``voices`` is the folder of the voice
    banks (default: the user's cache). Raises ``ConfigError`` for bad numbers, ``CorpusError``
    when ``out`` holds another corpus or the system parts are missing.
    """
    _check_request(hours, seed, workers)
    job = _Job(out=out, seed=seed, stems=stems, tiny=tiny, soundfont=soundfont,
               banks=default_folder() if voices is None else voices)  # fmt: skip
    if not tiny:
        check_band(soundfont)
        check_world()
    count = num_songs(hours, seed, tiny=tiny)
    _claim(job, hours, count)

    def refuse() -> None:
        raise CorpusError(f"another process is writing {out}: wait for it")

    with alone_in(out, refuse), _one_thread_each():
        todo = [i for i in range(count) if not _finished(job, i)]
        if todo and not tiny:
            ensure_banks(job.banks, workers=workers, progress=progress)
        _render_all(job, todo, count, workers, progress)
    return count


def num_songs(hours: float, seed: int, *, tiny: bool = False) -> int:
    """How many songs it takes to fill ``hours``."""
    total_s, count = 0.0, 0
    while total_s < hours * 3600.0:
        total_s += plan_song(count, seed, tiny=tiny).duration_s
        count += 1
    return count


def _check_request(hours: float, seed: int, workers: int) -> None:
    if not 0.0 < hours <= 100_000.0:
        raise ConfigError(f"hours must be above 0 and at most 100000, not {hours}")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed must be at least 0 and below 2**63, not {seed}")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")


def _claim(job: _Job, hours: float, count: int) -> None:
    """Write corpus.json, or refuse to mix two corpora in one folder."""
    path = job.out / "corpus.json"
    fixed = {"seed": job.seed, "version": GENERATOR_VERSION, "tiny": job.tiny, "stems": job.stems}
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CorpusError(f"{path} is damaged: {error}") from error
        for key, value in fixed.items():
            if before.get(key) != value:
                raise CorpusError(
                    f"{job.out} holds a corpus with {key} {before.get(key)!r}, not {value!r}"
                )
        hours, count = max(hours, before["hours"]), max(count, before["num_songs"])
    (job.out / "songs").mkdir(parents=True, exist_ok=True)
    _write_json(path, {**fixed, "hours": hours, "num_songs": count, "sample_rate_hz": RATE_HZ})


def _folder(job: _Job, index: int) -> Path:
    return job.out / "songs" / song_id(index)


def _sounds(job: _Job) -> list[str]:
    return ["mix.flac", *(["vocals.flac", "band.flac"] if job.stems else [])]


def _finished(job: _Job, index: int) -> bool:
    folder = _folder(job, index)
    return all((folder / name).is_file() for name in (*_sounds(job), "song.json"))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children inherit one thread for linear algebra: they are the parallelism."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _render_all(
    job: _Job, todo: list[int], count: int, workers: int, progress: Progress | None
) -> None:
    done = count - len(todo)
    if progress is not None:
        progress("songs", done, count)
    if not todo:
        return
    if workers == 1:
        for i in todo:
            _render_to_disk(job, i)
            done += 1
            if progress is not None:
                progress("songs", done, count)
        return
    pool = ProcessPoolExecutor(
        max_workers=min(workers, len(todo)), mp_context=multiprocessing.get_context("spawn"),
        initializer=obey_parent,
    )  # fmt: skip
    try:
        jobs: list[Future[None]] = [pool.submit(_render_to_disk, job, i) for i in todo]
        for future in as_completed(jobs):
            future.result()
            done += 1
            if progress is not None:
                progress("songs", done, count)
    except BrokenProcessPool as error:
        raise CorpusError(
            "a worker died while rendering; run the command again to go on"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@lru_cache(maxsize=1)
def _studio(soundfont: Path | None, banks: Path) -> Studio:
    return Studio(soundfont=soundfont, banks=banks)


def _render_to_disk(job: _Job, index: int) -> None:
    folder = _folder(job, index)
    folder.mkdir(parents=True, exist_ok=True)
    for stray in folder.glob(".*.tmp"):
        stray.unlink(missing_ok=True)
    song = _render(job, index)
    _write_sound(folder / "mix.flac", song.mix.mix_CN)
    if job.stems:
        _write_sound(folder / "vocals.flac", song.mix.vocals_N[None])
        _write_sound(folder / "band.flac", song.mix.band_CN)
    _write_json(folder / "song.json", song.truth)


def _render(job: _Job, index: int) -> RenderedSong:
    if job.tiny:
        from khala.synth.tiny import render_tiny_song

        return render_tiny_song(index, job.seed)
    return render_song(index, job.seed, studio=_studio(job.soundfont, job.banks))


def _write_sound(path: Path, wave_CN: np.ndarray) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    samples = np.round(wave_CN.T * 32767.0)
    if not np.all(np.abs(samples) <= 32767.0):
        raise CorpusError(f"{path}: the sound does not fit 16 bits or is not finite")
    soundfile.write(temporary, samples.astype(np.int16), RATE_HZ, format="FLAC", subtype="PCM_16")
    temporary.replace(path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)
