"""The bytes of a ``.khala`` file: everything of a song in about 100 kB a minute.

Shape letters, this file only: Q residual levels, T codec frames.

It is an ordinary safetensors file, written here so that every byte of it is decided:

    8 bytes     length of the header, little endian
    header      {"__metadata__":{"sha256":"<64 hex>","khala":"<JSON>"},"codes":{...}}, space padded
    codes       10 bits a code, four codes in five bytes, level 0 first

``sha256`` covers the whole file with its own 64 digits read as zeros, so no changed byte passes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from khala.errors import AudioError, TokenError
from khala.song.request import MAX_LEVELS, check_integer

CODEBOOK_SIZE = 1_024
"""Codes per level: ten bits each in the file."""

MAX_FRAMES = 2**17
"""About 101 minutes: bounds what a song file can make a reader allocate."""

MAX_FILE_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 2**20

_FORMAT = 1
_HEAD = b'{"__metadata__":{"sha256":"'
_NUM_HEX = 64


class DamageError(Exception):
    """Why a file is not a whole song file; ``Song.load`` turns it into an AudioError."""


def pack_codes(codes_QT: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    """Pack codes in [0, 1024) at ten bits each, lowest bit first, level after level."""
    flat = codes_QT.reshape(-1).astype("<u8")
    groups = np.zeros((-(-flat.size // 4), 4), dtype="<u8")
    groups.reshape(-1)[: flat.size] = flat
    words = groups[:, 0] | groups[:, 1] << 10 | groups[:, 2] << 20 | groups[:, 3] << 30
    five_bytes = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :5]
    return five_bytes.reshape(-1)[: _num_packed(flat.size)].copy()


def unpack_codes(
    packed: npt.NDArray[np.uint8], num_levels: int, num_frames: int
) -> npt.NDArray[np.int16]:
    """Undo ``pack_codes``; the sizes must be those of the packed table."""
    num_codes = num_levels * num_frames
    if packed.size != _num_packed(num_codes):
        raise TokenError(f"{packed.size} bytes cannot hold {num_levels} x {num_frames} codes")
    groups = np.zeros((-(-num_codes // 4), 8), dtype=np.uint8)
    five_bytes = np.zeros(groups.shape[0] * 5, dtype=np.uint8)
    five_bytes[: packed.size] = packed
    groups[:, :5] = five_bytes.reshape(-1, 5)
    words = groups.reshape(-1).view("<u8")
    codes = np.stack([words >> shift & 1023 for shift in (0, 10, 20, 30)], axis=1)
    return codes.reshape(-1)[:num_codes].astype(np.int16).reshape(num_levels, num_frames)


def _num_packed(num_codes: int) -> int:
    return (num_codes * 10 + 7) // 8


def to_bytes(values: Mapping[str, Any], codes_QT: npt.NDArray[np.int16]) -> bytes:
    """Return the whole file that holds ``values`` (plain JSON values) and the codes.

    Raises:
        AudioError: the song is larger than a file may be.
    """
    packed = pack_codes(codes_QT).tobytes()
    table = dict(zip(("num_levels", "num_frames"), codes_QT.shape, strict=True))
    inner = _json({**values, **table, "format": _FORMAT, "codes_sha256": codes_digest(codes_QT)})
    entry = {"dtype": "U8", "shape": [len(packed)], "data_offsets": [0, len(packed)]}
    header = f'{_json(inner)}}},"codes":{_json(entry)}}}'.encode()
    header = _HEAD + b"0" * _NUM_HEX + b'","khala":' + header
    header += b" " * (-len(header) % 8)
    content = len(header).to_bytes(8, "little") + header + packed
    if len(header) > MAX_HEADER_BYTES or len(content) > MAX_FILE_BYTES:
        raise AudioError(
            f"cannot save this song: {len(header)} bytes of text and {len(packed)} of codes, at "
            f"most {MAX_HEADER_BYTES} and {MAX_FILE_BYTES} together are allowed"
        )
    sha256 = hashlib.sha256(content).hexdigest().encode()
    start = 8 + len(_HEAD)
    return content[:start] + sha256 + content[start + _NUM_HEX :]


def read_file(file: BinaryIO, num_bytes: int) -> tuple[dict[str, Any], npt.NDArray[np.int16]]:
    """Read what ``to_bytes`` wrote: sizes are checked before reading, every byte after it.

    Args:
        file: to be read from its beginning.
        num_bytes: how long it is.

    Raises:
        DamageError, RequestError, TokenError, ValueError, TypeError, KeyError, RecursionError:
            it is something else. The first three carry a line for the user.
    """
    if num_bytes > MAX_FILE_BYTES:
        raise DamageError(f"it has {num_bytes} bytes, at most {MAX_FILE_BYTES} are allowed")
    start = 8 + len(_HEAD)
    content = file.read(start)
    if content[8:] != _HEAD:
        raise DamageError("it does not begin like one")
    num_header = int.from_bytes(content[:8], "little")
    if num_header > min(MAX_HEADER_BYTES, num_bytes - 8):
        raise DamageError(f"its header claims {num_header} bytes")
    content += file.read(num_bytes - start)
    sha256 = content[start : start + _NUM_HEX]
    blanked = content[:start] + b"0" * _NUM_HEX + content[start + _NUM_HEX :]
    if hashlib.sha256(blanked).hexdigest().encode() != sha256:
        raise DamageError("it was changed or cut short after it was written")
    header = json.loads(content[8 : 8 + num_header])
    values = json.loads(header["__metadata__"]["khala"])
    packed = np.frombuffer(content, dtype=np.uint8, offset=8 + num_header)
    return _checked(values, packed)


def codes_digest(codes_QT: npt.NDArray[np.int16]) -> str:
    """Return the sha256 of the codes themselves, however they are packed."""
    return hashlib.sha256(codes_QT.astype("<i2").tobytes()).hexdigest()


def _checked(
    values: dict[str, Any], packed: npt.NDArray[np.uint8]
) -> tuple[dict[str, Any], npt.NDArray[np.int16]]:
    if not isinstance(values, dict):
        raise DamageError("its header is not a table")
    if values.pop("format") != _FORMAT:
        raise DamageError(f"it has another format than {_FORMAT}, the only one known here")
    num_levels, num_frames = values.pop("num_levels"), values.pop("num_frames")
    check_integer("num_levels", num_levels, 1, MAX_LEVELS)
    check_integer("num_frames", num_frames, 1, MAX_FRAMES)
    codes_QT = unpack_codes(packed, num_levels, num_frames)
    if values.pop("codes_sha256") != codes_digest(codes_QT):
        raise DamageError("its codes are not the ones that were saved")
    return values, codes_QT


def _json(value: object) -> str:
    # ASCII only: every text of a song can be written, whatever it holds.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
