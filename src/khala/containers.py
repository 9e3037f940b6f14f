"""Which container a file is, by its bytes alone: rare ones must not reach a decoder.

Chunks and tags are walked, not searched: what stands behind them is what the decoder will meet. A
search is easily lied to, by a format chunk inside another chunk or by a tag before something else.
"""

from __future__ import annotations

from typing import BinaryIO

__all__ = ["container_of"]

MAX_CHUNKS = 64
"""Of a WAV file before its format, and of tags before an MP3."""

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
EXTENSIBLE_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def container_of(file: BinaryIO) -> str | None:
    """Name the container by its bytes: "wav", "flac", "mp3" or "ogg".

    None: something else, or a WAV of another encoding than PCM and float.
    """
    at = 0
    for _ in range(MAX_CHUNKS):
        head = _bytes_at(file, at, 12)
        if head[:3] != b"ID3" or len(head) < 10:
            break
        size = 0
        for byte in head[6:10]:
            size = size << 7 | byte & 0x7F
        at += 10 + size
    if head[:4] == b"fLaC":
        return "flac"
    if _is_mpeg(head):
        return "mp3"
    if at == 0 and head[:4] == b"OggS":
        return "ogg"
    if at == 0 and head[:4] == b"RIFF" and head[8:12] == b"WAVE" and _is_plain(_format_of(file)):
        return "wav"
    return None


def _bytes_at(file: BinaryIO, at: int, num_bytes: int) -> bytes:
    file.seek(at)
    return file.read(num_bytes)


def _is_mpeg(head: bytes) -> bool:
    """Whether a frame of MPEG audio begins here: no version, layer or rate that is reserved."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bit_rate, sample_rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer != 0 and bit_rate != 15 and sample_rate != 3


def _format_of(file: BinaryIO) -> bytes:
    """Return the first format chunk of a WAV file; empty if there is none."""
    at = 12
    for _ in range(MAX_CHUNKS):
        head = _bytes_at(file, at, 8)
        size = int.from_bytes(head[4:8], "little")
        if head[:4] == b"fmt ":
            return file.read(min(size, 40))
        if len(head) < 8 or head[:4] in (b"data", b"RIFF"):
            break
        at += 8 + size + size % 2
    return b""


def _is_plain(chunk: bytes) -> bool:
    if len(chunk) < 16:
        return False
    tag = int.from_bytes(chunk[:2], "little")
    if tag == EXTENSIBLE:
        return (
            len(chunk) == 40
            and chunk[26:] == EXTENSIBLE_TAIL
            and int.from_bytes(chunk[24:26], "little") in (PCM, FLOAT)
        )
    return tag in (PCM, FLOAT)
