"""Recordings that strangers sent become samples, decoded in a process of their own.

This process looks at a few bytes (`khala.containers`) and never gives the file to a codec.
Another one (`khala.serve.decoder`) decodes it behind limits and walls (`khala.serve.sandbox`),
writes samples to a file without a name, and is gone; whatever it does, this process only counts and
reads samples.

Shape letters, this file only: C channels, N samples.
"""

from __future__ import annotations

import dataclasses
import json
import os
import selectors
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np

from khala.audio import BLOCK_FRAMES, Wave
from khala.containers import container_of
from khala.errors import AudioError, CapacityError, ConfigError, KhalaError, StageError
from khala.serve.decoder import BYTES_PER_FRAME, Verdict, output_bytes

__all__ = ["DecodeLimits", "decode_upload", "sandbox_report"]

DECODER = ("-I", "-m", "khala.serve.decoder")
"""Isolated: the environment and the folder say nothing about which code runs."""

MAX_SAID_BYTES = 4_096
"""Read of what the decoder says; the walls that stand, or why it did not start."""

REFUSALS: Mapping[Verdict, str] = MappingProxyType(
    {
        Verdict.UNREADABLE: "cannot be read: it is damaged, or no sound we know",
        Verdict.CHANNELS: "has more than two channels; allowed: 1 or 2",
        Verdict.SAMPLE_RATE: "has a sample rate outside of 4 to 384 kHz",
        Verdict.NO_LENGTH: "does not say how long it is; allowed: files with their length",
        Verdict.EMPTY: "holds no sound",
        Verdict.NOT_FINITE: "cannot be read: it holds values that are not finite",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    """What decoding one upload may take.

    Raises:
        ConfigError: a limit that is not above 0.
    """

    max_bytes: int = 32 << 20
    """Of the file."""

    max_duration_s: float = 600.0
    """Of the sound."""

    memory_bytes: int = 1 << 30
    """Address space of the decoder; it needs 120 MiB."""

    cpu_s: int = 20
    """Seconds of computing."""

    wall_s: float = 30.0
    """Seconds in all."""

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            if not getattr(self, one.name) > 0:
                value = getattr(self, one.name)
                raise ConfigError(f"limit {one.name} is {value}: it must be above 0")


def decode_upload(path: Path, *, workdir: Path, limits: DecodeLimits | None = None) -> Wave:
    """Decode an uploaded WAV, FLAC, MP3, Ogg Vorbis or Opus file to float32 [2, N] at 44.1 kHz.

    The samples are those of `khala.audio.read_audio`. Nothing is left behind in any case.

    Args:
        path: a file that the service named; no link.
        workdir: where temporary files are made; one song of the longest duration must fit.
        limits: `DecodeLimits()` by default.

    Raises:
        AudioError: refused, and why.
        CapacityError: it needs more time, memory or disk than is allowed or there.
        StageError: the decoder does not run here at all.
    """
    limits = limits or DecodeLimits()
    with _opened(path, limits) as upload, _place(workdir) as (samples, empty):
        if container_of(upload) is None:
            raise AudioError(
                "the uploaded file is not audio we can read; allowed: WAV, FLAC, MP3, Ogg"
            )
        status, said = _run(upload, samples, empty, limits)
        _check(status, said, limits)
        return _collected(samples, limits)


def sandbox_report(workdir: Path | None = None) -> dict[str, str]:
    """Decode a moment of silence and tell which walls stood: "on", or why not, by name."""
    limits = DecodeLimits()
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 236, b"WAVE", b"fmt ", 16, 1, 1, 44_100, 88_200,
                       2, 16)  # fmt: skip
    silence = head + struct.pack("<4sI", b"data", 200) + bytes(200)
    with tempfile.TemporaryDirectory(dir=workdir) as name:
        folder = Path(name)
        (folder / "silence").write_bytes(silence)
        try:
            with _opened(folder / "silence", limits) as upload, _place(folder) as (samples, empty):
                status, said = _run(upload, samples, empty, limits)
                _check(status, said, limits)
                num_samples = _collected(samples, limits).shape[1]
        except KhalaError as error:
            return {"decoder": f"off: {error}"}
    return {"decoder": "on" if num_samples == 100 else "off: it lost samples", **json.loads(said)}


@contextmanager
def _opened(path: Path, limits: DecodeLimits) -> Iterator[BinaryIO]:
    """Open a plain file of an allowed size."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise AudioError(f"cannot read the uploaded file: {error.strerror}") from error
    state = os.fstat(handle)
    try:
        if not stat.S_ISREG(state.st_mode):
            raise AudioError("the uploaded file is no plain file")
        if state.st_size > limits.max_bytes:
            raise AudioError(
                f"the uploaded file has {state.st_size} bytes; allowed: {limits.max_bytes}"
            )
        with os.fdopen(handle, "rb", buffering=0, closefd=False) as file:
            yield file
    finally:
        os.close(handle)


@contextmanager
def _place(workdir: Path) -> Iterator[tuple[BinaryIO, str]]:
    """Give a file without a name for the samples, and an empty folder to stand in."""
    with ExitStack() as stack:
        try:
            samples = stack.enter_context(tempfile.TemporaryFile(dir=workdir))
            empty = stack.enter_context(tempfile.TemporaryDirectory(dir=workdir))
        except OSError as error:
            raise _not_now(error) from error
        yield samples, empty


def _not_now(error: OSError) -> CapacityError:
    reason = (error.strerror or str(error)).lower()
    return CapacityError(f"the uploaded file cannot be decoded now: {reason}")


def _run(
    upload: BinaryIO, samples: BinaryIO, empty: str, limits: DecodeLimits
) -> tuple[int | None, bytes]:
    """Run the decoder to its end; its exit status, None if time was up, and what it said."""
    upload.seek(0)
    numbers = (os.getpid(), limits.memory_bytes, limits.cpu_s, limits.max_duration_s, limits.wall_s)
    words = [sys.executable, *DECODER, *(str(one) for one in numbers)]
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    kept = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # some interpreters do not start without
    environment = dict.fromkeys(threads, "1")
    environment |= {name: os.environ[name] for name in kept if name in os.environ}
    try:
        process = subprocess.Popen(
            words,
            stdin=upload,
            stdout=samples,
            stderr=subprocess.PIPE,
            cwd=empty,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise _not_now(error) from error
    try:
        said, is_over = _heard(process, limits.wall_s)
    finally:
        with suppress(ProcessLookupError, PermissionError):  # it ended, or is about to
            os.killpg(process.pid, signal.SIGKILL)  # not waited for yet: the number is its own
        status = process.wait()
        if process.stderr is not None:
            process.stderr.close()
    return (status if is_over else None), said


def _heard(process: subprocess.Popen[bytes], wall_s: float) -> tuple[bytes, bool]:
    """Listen until the process closes its end; what it said, and whether it ended in time."""
    assert process.stderr is not None
    handle, said = process.stderr.fileno(), b""
    deadline = time.monotonic() + wall_s
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while (left_s := deadline - time.monotonic()) > 0:
            if not selector.select(left_s):
                break
            words = os.read(handle, MAX_SAID_BYTES)
            if not words:
                return said, True
            said = (said + words)[:MAX_SAID_BYTES]
    return said, False


def _check(status: int | None, said: bytes, limits: DecodeLimits) -> None:
    """Raise what the end of the decoder means."""
    too_slow = CapacityError(
        f"the uploaded file takes too long to decode; allowed: {limits.cpu_s} s of computing, "
        f"{limits.wall_s:g} s in all"
    )
    if status is None or -status in (signal.SIGXCPU, signal.SIGALRM):
        raise too_slow
    if status == 1 and not said.startswith(b"{"):  # an exception before the walls stood
        reason = said.decode(errors="replace").strip().splitlines()[-1:]
        raise StageError(f"the decoder does not start: {' '.join(reason)}", stage="decode")
    if status in (Verdict.MEMORY, -signal.SIGKILL):  # the kernel's own choice when memory is short
        raise CapacityError(
            f"decoding the uploaded file needs more memory than the allowed "
            f"{limits.memory_bytes >> 20} MiB"
        )
    if status == Verdict.DISK:
        raise CapacityError("the disk is too full to decode the uploaded file")
    if status == Verdict.TOO_LONG:
        raise AudioError(f"the uploaded file is longer than {limits.max_duration_s:g} s")
    if status in REFUSALS:
        raise AudioError(f"the uploaded file {REFUSALS[Verdict(status)]}")
    if status != Verdict.DECODED:
        end = subprocess.CalledProcessError(status, DECODER)  # for the log
        raise AudioError("the uploaded file cannot be read: the decoder gave up") from end


def _collected(samples: BinaryIO, limits: DecodeLimits) -> Wave:
    """Read the samples as one who does not trust them: counted, whole, finite."""
    num_bytes = os.fstat(samples.fileno()).st_size
    gave_up = AudioError("the uploaded file cannot be read: the decoder gave up")
    if not 0 < num_bytes <= output_bytes(limits.max_duration_s) or num_bytes % BYTES_PER_FRAME:
        raise gave_up
    wave_CN: Wave = np.empty((2, num_bytes // BYTES_PER_FRAME), np.float32)
    samples.seek(0)
    for start in range(0, wave_CN.shape[1], BLOCK_FRAMES):
        block_CN = wave_CN[:, start : start + BLOCK_FRAMES]
        content = samples.read(block_CN.shape[1] * BYTES_PER_FRAME)
        block_CN[:] = np.frombuffer(content, np.float32).reshape(-1, 2).T
        if not np.isfinite(block_CN).all():
            raise gave_up
    return wave_CN
