"""Audio files of any format, whole or refused.

WAV, FLAC, MP3, Ogg and Opus are read by `khala.audio`; whatever else FFmpeg knows (M4A, AAC, WMA,
WebM, AIFF, ...) by PyAV, which is in the extra ``[train]``. A file that ends before its own header
says it does is refused: half a song would be taught as a whole one.

Shape letters: C channels, N samples.
"""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from khala.audio import read_audio, resample
from khala.errors import AudioError

__all__ = ["AUDIO_ENDINGS", "decode_audio"]

OWN_ENDINGS = (".flac", ".wav", ".mp3", ".ogg", ".oga", ".opus")
OTHER_ENDINGS = (
    *(".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".aif", ".aiff", ".aifc", ".caf"),
    *(".ape", ".wv", ".ac3", ".mp2", ".tta", ".au", ".w64"),
)
AUDIO_ENDINGS = frozenset({*OWN_ENDINGS, *OTHER_ENDINGS})
"""What is taken for a song."""

DEMUXERS = "aac,ac3,aiff,ape,asf,au,caf,matroska,mov,mp3,tta,w64,wv"
"""What FFmpeg may take a file for: a playlist could name other files, or a URL."""

RATE_HZ = 44_100
SHORTER = 0.02
"""A sound may be this much shorter than its header says: encoders' padding."""

MIN_SHORTER_S = 0.2


def decode_audio(path: Path, *, max_duration_s: float) -> NDArray[np.float32]:
    """Return a file's sound as wave_CN, 44.1 kHz, two channels.

    Memory is bounded by ``max_duration_s`` before and while it is decoded.

    Raises:
        AudioError: not audio, damaged, cut short, longer than allowed, or PyAV is missing.
    """
    if path.stat().st_size == 0:
        raise AudioError(f"{path.name} is empty: 0 bytes")
    if path.suffix.lower() in OTHER_ENDINGS:
        return _by_ffmpeg(path, max_duration_s)
    wave_CN = read_audio(path, sample_rate_hz=RATE_HZ, max_duration_s=max_duration_s)
    _check_whole(path, wave_CN.shape[1] / RATE_HZ)
    return wave_CN


def _check_whole(path: Path, decoded_s: float) -> None:
    """Refuse a file that says of itself that it is longer, or whose last page is missing."""
    import soundfile

    with path.open("rb") as file:
        head = file.read(12)
        file.seek(max(0, path.stat().st_size - (1 << 16)))
        tail = file.read()
    if head[:4] == b"OggS":
        last = tail.rfind(b"OggS")
        if last >= 0 and not tail[last + 5] & 4:
            raise AudioError(f"{path.name} is cut short: its last page does not end the stream")
        return
    said_s = float(soundfile.info(path).duration)
    if head[:4] == b"RIFF":
        num_bytes = int.from_bytes(head[4:8], "little") + 8
        if num_bytes < 0xFFFFFF00 and path.stat().st_size < num_bytes - 1:
            said_s *= num_bytes / path.stat().st_size
    _check_length(path, decoded_s, said_s)


def _check_length(path: Path, decoded_s: float, said_s: float) -> None:
    if decoded_s < said_s - max(SHORTER * said_s, MIN_SHORTER_S):
        raise AudioError(
            f"{path.name} is cut short: {decoded_s:.1f} s of the {said_s:.1f} s in its header"
        )


def _by_ffmpeg(path: Path, max_duration_s: float) -> NDArray[np.float32]:
    """Decode with PyAV's FFmpeg, from this one file and nothing else."""
    try:
        import av
    except ImportError as error:
        raise AudioError(
            f"{path.name}: {path.suffix} needs PyAV: pip install 'khala[train]'"
        ) from error
    av.logging.set_level(av.logging.PANIC)
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        with av.open(os.fspath(path), options=options) as container:
            if not container.streams.audio:
                raise AudioError(f"{path.name} holds no sound")
            said_s = float(container.duration or 0) / 1e6
            if said_s > max_duration_s:
                raise AudioError(f"{path.name} is longer than the allowed {max_duration_s:g} s")
            wave_CN, rate_hz = _decoded(av, container, path, max_duration_s)
    except av.FFmpegError as error:
        raise AudioError(f"cannot read {path.name}: {error.strerror}") from error
    if not np.isfinite(wave_CN).all():
        raise AudioError(f"cannot read {path.name}: it holds values that are not finite")
    _check_length(path, wave_CN.shape[1] / rate_hz, said_s)
    return resample(wave_CN, rate_hz, RATE_HZ)


def _decoded(
    av: Any, container: Any, path: Path, max_duration_s: float
) -> tuple[NDArray[np.float32], int]:
    """Return all samples [2, N] of the first audio stream at its own rate."""
    stream = container.streams.audio[0]
    rate_hz, channels = int(stream.rate), int(stream.channels)
    if channels not in (1, 2):
        raise AudioError(f"{path.name} has {channels} channels; allowed: 1 or 2")
    to_float = av.AudioResampler(format="fltp", rate=rate_hz)
    blocks: list[NDArray[np.float32]] = []
    num_samples = 0
    for frame in chain(container.decode(stream), [None]):
        for block in to_float.resample(frame):
            blocks.append(block.to_ndarray())
            num_samples += blocks[-1].shape[1]
        if num_samples > max_duration_s * rate_hz:
            raise AudioError(f"{path.name} is longer than the allowed {max_duration_s:g} s")
    if not num_samples:
        raise AudioError(f"{path.name} holds no sound")
    wave_CN = np.concatenate(blocks, axis=1)
    return (wave_CN if channels == 2 else np.repeat(wave_CN, 2, axis=0)), rate_hz
