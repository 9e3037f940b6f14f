"""The program that decodes one upload, alone behind walls: ``python -I -m khala.serve.decoder``.

It is given three open files and no name of any: 0 the upload, 1 an empty file for the samples
(float32, left and right in turns, 44.1 kHz), 2 a pipe for one line of JSON that says which walls
stand. It reads the upload only after that line. How it went is its exit status, a `Verdict`: no
text from behind the walls reaches a user. `khala.serve.uploads` starts it.

Decoding and resampling go block by block, so memory does not grow with the length.

Shape letters, this file only: N samples, C channels.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from khala.audio import BLOCK_FRAMES, MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ
from khala.serve.sandbox import confine, die_with

if TYPE_CHECKING:
    from khala.audio import Wave

__all__ = ["SAMPLE_RATE_HZ", "Verdict", "output_bytes"]

SAMPLE_RATE_HZ = 44_100
BYTES_PER_FRAME = 2 * 4
UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile says where a header says nothing."""

CONTAINERS = frozenset({"WAV", "WAVEX", "FLAC", "MP3", "OGG"})
PLAIN = frozenset({"PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"})
CODED = frozenset({"VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"})
"""What libsndfile may find; it knows forty more, and its bugs live there."""


class Verdict(enum.IntEnum):
    """How it went: the exit status."""

    DECODED = 0
    UNREADABLE = 64
    CHANNELS = 65
    SAMPLE_RATE = 66
    TOO_LONG = 67
    EMPTY = 68
    NOT_FINITE = 69
    MEMORY = 70
    DISK = 71
    NO_LENGTH = 72


def output_bytes(max_duration_s: float) -> int:
    """Return the most that decoding writes: what is allowed, and a sample for rounding."""
    return (int(max_duration_s * SAMPLE_RATE_HZ) + 1) * BYTES_PER_FRAME


def main() -> None:
    """Put up the walls, say so, decode."""
    import soundfile
    import soxr  # noqa: F401 (nothing can be opened later)

    parent, memory_bytes, cpu_s = (int(word) for word in sys.argv[1:4])
    max_duration_s, wall_s = (float(word) for word in sys.argv[4:])
    walls = {"ends with the service": die_with(parent)}
    signal.setitimer(signal.ITIMER_REAL, wall_s)  # where it does not end with the service
    report = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries talk, and nobody would read it
    file_bytes = output_bytes(max_duration_s)
    try:
        walls |= confine(memory_bytes=memory_bytes, cpu_s=cpu_s, file_bytes=file_bytes)
        os.write(report, json.dumps(walls).encode() + b"\n")
        verdict = _decode(max_duration_s)
    except MemoryError:
        verdict = Verdict.MEMORY
    except soundfile.SoundFileError as error:
        verdict = Verdict.MEMORY if "malloc" in str(error) else Verdict.UNREADABLE
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        verdict = Verdict.DISK if full else Verdict.UNREADABLE
    os._exit(verdict)


def _decode(max_duration_s: float) -> Verdict:
    """Copy the upload's samples to the output; headers are compared before, samples counted."""
    import soundfile

    with soundfile.SoundFile(0, closefd=False) as file, open(1, "wb", closefd=False) as out:
        if file.format not in CONTAINERS or file.subtype not in PLAIN | CODED:
            return Verdict.UNREADABLE
        if file.channels not in (1, 2):
            return Verdict.CHANNELS
        if not MIN_SAMPLE_RATE_HZ <= file.samplerate <= MAX_SAMPLE_RATE_HZ:
            return Verdict.SAMPLE_RATE
        if file.frames == UNKNOWN_FRAMES:  # FLAC from a pipe; soundfile cannot read it in parts
            return Verdict.NO_LENGTH
        max_frames = int(max_duration_s * file.samplerate)
        if file.frames > max_frames:
            return Verdict.TOO_LONG
        num_written = 0
        for block_NC in _resampled(file, max_frames):
            if block_NC is None:
                return Verdict.TOO_LONG
            if not np.isfinite(block_NC).all():
                return Verdict.NOT_FINITE
            num_written += out.write(_stereo(block_NC).tobytes())
        return Verdict.DECODED if num_written else Verdict.EMPTY


def _resampled(file: Any, max_frames: int) -> Iterator[Wave | None]:
    """Give blocks of sound at 44.1 kHz; None where there is more than is allowed."""
    import soxr

    stream = None
    if file.samplerate != SAMPLE_RATE_HZ:
        stream = soxr.ResampleStream(file.samplerate, SAMPLE_RATE_HZ, file.channels, "float32")
    num_frames, is_last = 0, False
    while not is_last:
        block_NC = file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
        num_frames += len(block_NC)
        if num_frames > max_frames:
            yield None
            return
        is_last = len(block_NC) == 0
        yield block_NC if stream is None else stream.resample_chunk(block_NC, last=is_last)


def _stereo(block_NC: Wave) -> Wave:
    return np.repeat(block_NC, 2, axis=1) if block_NC.shape[1] == 1 else block_NC


if __name__ == "__main__":
    main()
