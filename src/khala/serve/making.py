"""Making a song stage by stage: what a worker does between the job engine and the models.

Everything that is finished is a file and a row before the next stage begins, so a worker that dies
costs no more than the stage it was in. A run is one attempt of one worker; when a worker is given
up for dead its run may write no more, even if it wakes up again.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sqlalchemy as sa

from khala.errors import Cancelled, KhalaError, StageError
from khala.serve.durable import rank_of
from khala.serve.files import Files
from khala.serve.ledger import Ledger, Row
from khala.serve.sealing import Sealer, Wave, headroom
from khala.serve.stages import Stage, stages_of
from khala.song import Song, SongRequest

__all__ = ["Fenced", "Maker", "Making", "Run"]

EVENT_EVERY_S = 0.25
"""Progress is told no more often, and wishes are heard as often."""

UPLOAD = "upload.flac"
"""What was made of a recording that somebody sent."""

PEAKS = 1_000
"""Columns of the waveform that is drawn before the sound is there."""


class Fenced(Exception):
    """This run may write no more: its worker was given up, and another has the song."""


class Maker(Protocol):
    """What makes songs."""

    about: dict[str, Any]
    """Model, digests, levels, longest_s, sample_rate_hz, device: what the service tells of it."""

    def sketch(
        self,
        request: SongRequest,
        *,
        on_progress: Callable[[int, int, float | None], None],
        on_notice: Callable[[str, str], None],
        on_piece: Callable[[Wave, float], None],
        should_stop: Callable[[], bool],
    ) -> Song:
        """Write levels 0 and 1, and let pieces of their sound be heard meanwhile.

        Raises:
            Cancelled: ``should_stop`` said so; with what was finished.
            KhalaError: no song can be made of this.
        """

    def refine(
        self,
        song: Song,
        levels: int,
        *,
        on_progress: Callable[[int, int, float | None], None],
        should_stop: Callable[[], bool],
    ) -> Song:
        """Give a song more levels."""

    def sound(self, song: Song, *, should_stop: Callable[[], bool]) -> Wave:
        """Decode a song, float32 [C, N]."""

    def encode(self, path: Path, levels: int) -> Song:
        """Return the codes of a recording, which is a FLAC file of ours."""

    def picture(self, song: Song, wave_CN: Wave) -> bytes | None:
        """Return a PNG of the sound, if pictures can be drawn here."""


@dataclass(kw_only=True, eq=False)
class Run:
    """One attempt of one worker to make a song."""

    token: str
    row: Row
    worker: str
    began_s: float = field(default_factory=time.monotonic)
    heard_s: float = field(default_factory=time.monotonic)
    """When wishes were last heard."""

    told_s: float = 0.0
    """When progress was last told."""

    spent_s: float = 0.0
    """In earlier runs."""

    @property
    def song(self) -> str:
        """The song's id."""
        return str(self.row["id"])

    @property
    def wish(self) -> str:
        """What the owner wants of it: "", "cancel", "pause" or "delete"."""
        return str(self.row["wish"])


@dataclass(frozen=True, kw_only=True)
class Making:
    """A worker's hands."""

    ledger: Ledger
    files: Files
    maker: Maker
    sealer: Sealer
    worker: str
    pulse: Callable[[], None]
    """Called whenever there is a sign of life."""

    enqueue: Callable[[sa.Connection, Row], None]
    """Queues a song's job in a transaction."""

    def claim(self, job: str) -> Run | None:
        """Take a job's song; None if there is nothing to do for it any more."""
        song = job.partition("-")[0]
        token = secrets.token_hex(8)
        row = self.ledger.song(song)
        if row is None or row["job"] != job or row["wish"] == "delete":
            return None
        row = self.ledger.change(
            song,
            {"state": "working", "run": token, "worker": self.worker,
             "model": self.maker.about["model"]},
            run=row["run"], states=("queued", "working"),
        )  # fmt: skip
        if row is None:
            return None
        return Run(token=token, row=row, worker=self.worker, spent_s=row["spent_s"])

    def plan(self, run: Run) -> list[Stage]:
        """Decide what is left to do."""
        files = self.ledger.files(run.song)
        heard = {row["levels"] for name, row in files.items() if name.startswith("audio-")}
        if run.row["levels"] == 0:
            heard = set()  # of a part, which is made whole now
        wanted = run.row["levels_wanted"]
        return stages_of(
            levels=run.row["levels"],
            wanted=wanted,
            heard=heard,
            is_recording=UPLOAD in files,
        )

    def do(self, run: Run, stage: Stage) -> str:
        """Do a stage: "done", "stopped" if the owner wished so, or "failed": the row says why.

        Raises:
            Fenced: another worker has the song.
            OSError: a file cannot be written; nothing is lost, and it can be tried again.
        """
        if run.wish:
            return "stopped"
        at = {"done": 0, "total": 0, "eta_s": None}
        if stage.kind == "detail":
            at = {"done": run.row["levels"], "total": run.row["levels_wanted"]}
        self._write(run, {"stage": stage.kind, **at})
        try:
            if stage.kind == "sketch":
                self._sketch(run)
            elif stage.kind == "encode":
                self._encode(run, stage.levels)
            elif stage.kind == "detail":
                self._detail(run, stage.levels)
            else:
                self._sound(run, stage.levels)
        except Cancelled as stop:
            self._keep_part(run, stage, stop.finished)
            return "stopped"
        except (Fenced, OSError):
            raise
        except Exception as error:
            if is_of_database(error):
                raise
            self._fail(run, stage, error)
            return "failed"
        return "done"

    def should_give_way(self, run: Run) -> bool:
        """Whether somebody waits for a first sound while this song only becomes sharper."""
        return run.row["levels"] > 0 and self.ledger.somebody_waits(self._next_rank(run))

    def give_way(self, run: Run) -> None:
        """Put a song back into the queue with what it has."""
        jobs = run.row["jobs"] + 1
        values = {
            "state": "queued", "stage": "", "run": "", "eta_s": None, "jobs": jobs,
            "job": f"{run.song}-{jobs}", "rank": self._next_rank(run), "queued_at": time.time(),
        }  # fmt: skip
        self._write(run, values, also=self.enqueue)

    def _next_rank(self, run: Run) -> int:
        row = run.row
        return rank_of(priority=row["priority"], levels=row["levels"], jobs=row["jobs"] + 1)

    def end(self, run: Run, outcome: str) -> None:
        """Say what became of a song, and make heard what was finished of a cancelled one."""
        if run.wish == "delete":
            told = {"id": run.song}
            self._write(run, {"state": "deleted", "run": ""}, type="deleted", data=told)
            return
        if outcome == "stopped" and run.wish == "cancel" and run.row["levels"] > 0:
            self._sound(run, run.row["levels"])
        state = {"done": "done", "failed": "failed"}.get(outcome)
        if state is None:
            state = "paused" if run.wish == "pause" else "cancelled"
        gone = self._pieces(run) if state != "paused" else []
        now = {} if state == "paused" else {"finished_at": time.time()}
        over = {"state": state, "wish": "", "stage": "", "eta_s": None, "run": ""}
        self._write(run, {**over, **now}, gone=gone)
        for name in gone:
            self.files.remove(run.song, name)

    # ---------------------------------------------------------------------------------- stages

    def _sketch(self, run: Run) -> None:
        request = SongRequest.from_dict({**run.row["request"], "levels": 2})
        rate_hz = self.maker.about["sample_rate_hz"]
        num, gain = 0, np.float32(1.0)

        def on_piece(wave_CN: Wave, start_s: float) -> None:
            nonlocal num, gain
            name = f"piece-{num:03d}.wav"
            gain = min(gain, headroom(wave_CN))  # never up again: pieces are heard in a row
            data, _ = self.sealer.encode(
                wave_CN * gain, ".wav", sample_rate_hz=rate_hz, row=run.row, levels=2,
                digests=self.maker.about["digests"],
            )  # fmt: skip
            piece = {"number": num, "start_s": start_s, "seconds": wave_CN.shape[1] / rate_hz}
            self._keep(run, name, data, levels=2, type="piece", data_of_event=piece)
            num += 1

        song = self.maker.sketch(
            request,
            on_progress=lambda *at: self._progress(run, *at),
            on_notice=lambda code, message: self._notice(run, code, message),
            on_piece=on_piece,
            should_stop=lambda: self._should_stop(run),
        )
        self._keep_song(run, song)

    def _encode(self, run: Run, levels: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / UPLOAD
            path.write_bytes(self.files.read(run.song, UPLOAD))
            song = self.maker.encode(path, levels)
        self._keep_song(run, song)

    def _detail(self, run: Run, levels: int) -> None:
        before, wanted = run.row["levels"], run.row["levels_wanted"]

        def on_progress(done: int, total: int, eta_s: float | None) -> None:
            each = None if eta_s is None or total == done else eta_s / (total - done)
            left = wanted - before - done
            self._progress(run, before + done, wanted, None if each is None else each * left)

        song = self.maker.refine(
            self.song_of(run),
            levels,
            on_progress=on_progress,
            should_stop=lambda: self._should_stop(run),
        )
        self._keep_song(run, song)

    def _sound(self, run: Run, levels: int) -> None:
        song = self.song_of(run, levels)
        is_ending = run.wish == "cancel"
        wave_CN = self.maker.sound(
            song, should_stop=lambda: not is_ending and self._should_stop(run)
        )
        self.pulse()
        rate_hz = song.sample_rate_hz
        flac, _ = self.sealer.encode(
            wave_CN * headroom(wave_CN), ".flac", sample_rate_hz=rate_hz, row=run.row,
            levels=levels, digests=song.digests, is_recording=song.ended == "recording",
        )  # fmt: skip
        is_last = levels >= run.row["levels_wanted"] or is_ending
        files = [
            self._put(run, f"audio-{levels:02d}.flac", flac, levels),
            self._put(run, f"peaks-{levels:02d}.json", peaks(wave_CN), levels),
        ]
        picture = self.maker.picture(song, wave_CN) if is_last else None
        if picture is not None:
            files.append(self._put(run, "plot.png", picture, levels))
        gone = self._pieces(run)
        duration_s = wave_CN.shape[1] / rate_hz
        self._write(run, {"duration_s": duration_s}, files=files, gone=gone)
        for name in gone:
            self.files.remove(run.song, name)

    # ----------------------------------------------------------------------------------- files

    def song_of(self, run: Run, levels: int | None = None) -> Song:
        """Read a song as far as it is finished, or its first levels."""
        song = Song.from_bytes(self.files.read(run.song, "song.khala"))
        return song if levels is None else song.with_levels(levels)

    def _keep_song(self, run: Run, song: Song, *, is_part: bool = False) -> None:
        data = song.to_bytes()
        file = self._put(run, "song.khala", data, song.num_levels)
        values = {
            "levels": song.num_levels,
            "is_part": is_part,
            "frames": song.num_frames,
            "duration_s": song.duration_s,
        }
        self._write(run, values, files=[file])

    def _keep_part(self, run: Run, stage: Stage, finished: object | None) -> None:
        """Keep what was finished of a stage that was stopped.

        A part of a sketch is kept only of a cancelled song. Going on with it begins the sketch
        again, with the same notes: the same seed and words give the same song.
        """
        is_part = stage.kind == "sketch"
        if isinstance(finished, Song) and (not is_part or run.wish == "cancel"):
            self._keep_song(run, finished, is_part=is_part)

    def _keep(
        self, run: Run, name: str, data: bytes, *, levels: int, type: str, data_of_event: Any
    ) -> None:
        file = self._put(run, name, data, levels)
        self._write(run, {}, files=[file], type=type, data=data_of_event)

    def _put(self, run: Run, name: str, data: bytes, levels: int) -> dict[str, Any]:
        """Write a file and return its row; nobody is shown it before that is written, too.

        Raises:
            Fenced: another worker has the song, and its files.
        """
        self.pulse()
        self._look(run)
        self.files.write(run.song, name, data)
        digest = hashlib.sha256(data).hexdigest()
        return {"name": name, "bytes": len(data), "sha256": digest, "levels": levels}

    def _pieces(self, run: Run) -> list[str]:
        return [name for name in self.ledger.files(run.song) if name.startswith("piece-")]

    # ------------------------------------------------------------------------------------ rows

    def _write(self, run: Run, values: dict[str, Any], **told: Any) -> None:
        spent_s = run.spent_s + time.monotonic() - run.began_s
        values = {**values, "spent_s": spent_s}
        row = self.ledger.change(run.song, values, run=run.token, **told)
        if row is None:
            raise Fenced(run.song)
        run.row, run.heard_s = row, time.monotonic()
        self.pulse()

    def _progress(self, run: Run, done: int, total: int, eta_s: float | None) -> None:
        self.pulse()
        if time.monotonic() - run.told_s < EVENT_EVERY_S and done != total:
            return
        run.told_s = time.monotonic()
        at = {"done": done, "total": total, "eta_s": eta_s}
        self._write(run, at, type="progress", data={"stage": run.row["stage"], **at})

    def _notice(self, run: Run, code: str, message: str) -> None:
        notices = [*run.row["notices"], {"code": code, "message": message}]
        self._write(run, {"notices": notices})

    def _should_stop(self, run: Run) -> bool:
        self.pulse()
        if not run.wish and time.monotonic() - run.heard_s > EVENT_EVERY_S:
            self._look(run)
        return bool(run.wish)

    def _look(self, run: Run) -> None:
        """Read what the owner wishes by now, and whether this run still counts."""
        row = self.ledger.song(run.song)
        if row is None or row["run"] != run.token:
            raise Fenced(run.song)
        run.row, run.heard_s = row, time.monotonic()

    def _fail(self, run: Run, stage: Stage, error: Exception) -> None:
        """Write why a song failed, and keep what is finished of it."""
        finished = getattr(error, "finished", None)
        if isinstance(finished, Song) and stage.kind == "detail":
            self._keep_song(run, finished)
        known = isinstance(error, KhalaError)
        why = str(error) if known else f"{stage.kind} failed: {type(error).__name__}"
        code = "failed" if known and not isinstance(error, StageError) else "broken"
        self._write(run, {"error": {"code": code, "detail": why, "stage": stage.kind}})


def is_of_database(error: BaseException) -> bool:
    """Whether the database could not be read or written."""
    return type(error).__module__.startswith(("sqlalchemy.", "psycopg", "sqlite3"))


def peaks(wave_CN: Wave) -> bytes:
    """Return the outline of a sound as JSON: its largest magnitude in each of some columns."""
    mono_N = np.abs(wave_CN).max(axis=0)
    edges = np.linspace(0, len(mono_N), min(PEAKS, len(mono_N)) + 1).astype(int)[:-1]
    columns = np.maximum.reduceat(mono_N, edges) if len(edges) else mono_N
    text = io.StringIO()
    json.dump([round(float(x), 3) for x in columns], text)
    return text.getvalue().encode()
