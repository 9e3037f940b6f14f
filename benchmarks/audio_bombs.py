"""Small or allowed files that would cost a careless reader gigabytes, hours or its own files.

Each is as large as an upload may be, or claims what it does not hold, or is something else than it
says. They are written one at a time, so making them needs little memory.
"""

from __future__ import annotations

import gzip
import io
import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import soundfile
from audio_mutants import encoded, id3_tag, ogg_pages, sealed, sound

UPLOAD_BYTES = 32 << 20
LARGE_BYTES = 25 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Bomb:
    """One file, made when it is asked for."""

    name: str
    make: Callable[[], bytes]


def bombs() -> Iterator[Bomb]:
    """Give every bomb."""
    for made in (
        flac_bombs(),
        ogg_bombs(),
        mp3_bombs(),
        wav_bombs(),
        disguises(),
        texts(),
        silences(),
    ):
        for name, make in made:
            yield Bomb(name=name, make=make)


Made = Iterator[tuple[str, Callable[[], bytes]]]


# ------------------------------------------------------------------------------------------- FLAC


def flac_bombs() -> Made:
    """Silence that is long, or claims to be short, and metadata that claims gigabytes."""
    for size, claim in itertools.product((1 << 20, LARGE_BYTES), (0, 1, 44_100, 2**36 - 1)):
        yield (
            f"FLAC of zeros, {size >> 20} MiB, says {claim} samples",
            lambda s=size, c=claim: flac_zeros(s, 44_100, 2, c),
        )
    for rate, channels in ((384_000, 2), (655_350, 2), (4_000, 1), (96_000, 8)):
        yield (
            f"FLAC of zeros, 2 MiB, {rate} Hz x{channels}",
            lambda r=rate, c=channels: flac_zeros(2 << 20, r, c, 0),
        )
    blocks = {
        "a picture that claims 4 GiB": (6, b"\xff" * 64),
        "comments without end": (4, struct.pack("<I", 0) + b"\xff" * 60),
        "a seek table of 16 MiB": (3, b"\xff" * (18 * 900_000)),
        "a cue sheet of noise": (5, b"\x7f" * 4_096),
        "an application of 16 MiB": (2, bytes((1 << 24) - 1)),
    }
    for name, (kind, content) in blocks.items():
        yield f"FLAC with {name}", lambda k=kind, c=content: flac_with(k, c)
    yield "FLAC with 100,000 paddings", lambda: flac_with(1, b"", count=100_000)


def flac_zeros(size: int, rate_hz: int, channels: int, claim: int) -> bytes:
    """Return silence of ``size`` bytes; its header says ``claim`` samples."""
    known = min(rate_hz, 384_000)
    one = encoded(np.zeros((known * 2, channels), np.float32), known, "FLAC", "PCM_16")
    start = one.find(b"\xff\xf8", 42)
    head = bytearray(one[:start])
    packed = int.from_bytes(head[18:26], "big") >> 36 & 0x0FFFFFFF
    packed = rate_hz << 8 | packed & 0xFF
    head[18:26] = (packed << 36 | claim).to_bytes(8, "big")
    frames = one[start:]
    return (bytes(head) + frames * (size // len(frames) + 1))[:size]


def silences() -> Made:
    """What is all that it says: as much work as an upload may make, and more."""
    for duration_s, rate in ((600, 384_000), (601, 384_000), (36_000, 8_000)):
        yield (
            f"FLAC of {duration_s} s of true silence at {rate} Hz",
            lambda d=duration_s, r=rate: flac_silence(d, r, 2 if r > 8_000 else 1),
        )


def flac_silence(duration_s: int, rate_hz: int, channels: int) -> bytes:
    """Return silence that is all that its header says."""
    memory = io.BytesIO()
    block_NC = np.zeros((rate_hz, channels), np.int16)
    with soundfile.SoundFile(memory, "w", rate_hz, channels, format="FLAC") as file:
        for _ in range(duration_s):
            file.write(block_NC)
    return memory.getvalue()


def flac_with(kind: int, content: bytes, *, count: int = 1) -> bytes:
    """Return a good file with blocks of metadata put in."""
    good = encoded(sound(44_100, 1), 44_100, "FLAC", "PCM_16")
    block = bytes([kind]) + len(content).to_bytes(3, "big") + content
    return good[:4] + good[4:42].replace(b"\x80", b"\x00", 1) + block * count + good[42:]


# -------------------------------------------------------------------------------------------- Ogg


def ogg_bombs() -> Made:
    """Opus of two bytes a packet, repeated Vorbis, streams and pages without end."""
    claims = {"true": None, "none": 0, "a second": 48_000, "negative": -1, "endless": 2**63 - 1}
    for size, channels, (name, claim) in itertools.product(
        (100_000, LARGE_BYTES), (1, 2), claims.items()
    ):
        yield (
            f"Opus of {size / 1e6:g} MB x{channels}, length {name}",
            lambda s=size, n=channels, c=claim: opus_bomb(s, n, c),
        )
    yield "Vorbis of 25 MB of silence", lambda: vorbis_bomb(LARGE_BYTES)
    good = encoded(sound(44_100, 1), 44_100, "OGG", "VORBIS")
    begin = good[: ogg_pages(good)[0][2]]
    yield (
        "Ogg of 10,000 beginnings",
        lambda: b"".join(
            sealed(begin[:14] + struct.pack("<I", number) + begin[18:]) for number in range(10_000)
        ),
    )
    yield "Ogg of 10,000 whole streams", lambda: good * min(10_000, UPLOAD_BYTES // len(good))
    yield "Ogg of empty pages", lambda: begin + page(b"", granule=0, number=1) * (LARGE_BYTES // 27)
    yield (
        "Ogg of one packet of 25 MB",
        lambda: (
            begin
            + b"".join(
                page(bytes(255 * 255), granule=-1, number=number, lacing=b"\xff" * 255)
                for number in range(1, LARGE_BYTES // 65_307)
            )
        ),
    )


def page(
    content: bytes, *, granule: int, number: int, flags: int = 0, lacing: bytes | None = None
) -> bytes:
    """Return a page of Ogg that holds one packet, or what ``lacing`` says."""
    if lacing is None:
        lacing = b"\xff" * (len(content) // 255) + bytes([len(content) % 255]) if content else b""
    head = b"OggS" + struct.pack("<BBqIIIB", 0, flags, granule, 7, number, 0, len(lacing))
    return sealed(head + lacing + content)


def opus_bomb(size: int, channels: int, claim: int | None) -> bytes:
    """Return packets of two bytes that each say 120 ms of nothing."""
    begin = page(
        b"OpusHead" + struct.pack("<BBHIhB", 1, channels, 0, 48_000, 0, 0),
        granule=0, number=0, flags=2,
    )  # fmt: skip
    begin += page(b"OpusTags" + struct.pack("<II", 0, 0), granule=0, number=1)
    packet, pages = bytes([0b00011011 | (4 if channels == 2 else 0), 2]), []
    num_pages = (size - len(begin)) // (27 + 255 * 3)
    for number in range(num_pages):
        true = (number + 1) * 255 * 5_760
        granule = true if claim is None else claim
        flags = 4 if number == num_pages - 1 else 0
        pages.append(page(packet * 255, granule=granule, number=number + 2, flags=flags,
                          lacing=b"\x02" * 255))  # fmt: skip
    return begin + b"".join(pages)


def vorbis_bomb(size: int) -> bytes:
    """Return the pages of some seconds again and again, numbered as they should be."""
    one = encoded(np.zeros((8_000 * 20, 1), np.float32), 8_000, "OGG", "VORBIS")
    pages = ogg_pages(one)
    tables = one[: pages[2][0]]
    sounds = [one[begin:end] for begin, _, end in pages[2:]]
    made = [tables]
    for number in range((size - len(tables)) // max(1, sum(len(one) for one in sounds))):
        for at, one_page in enumerate(sounds):
            head = struct.pack("<Bq", 0, 160_000 * number + 8_000 * (at + 1))
            count = struct.pack("<I", 2 + number * len(sounds) + at)
            made.append(sealed(one_page[:5] + head + one_page[14:18] + count + one_page[22:]))
    return b"".join(made)


# -------------------------------------------------------------------------------------------- MP3


def mp3_bombs() -> Made:
    """Frames of silence, and tags without end."""
    one = encoded(np.zeros((8_000 * 4, 1), np.float32), 8_000, "MP3", "MPEG_LAYER_III")
    frames = one[one.find(one[:2], 4) :]  # without the first, which says how long it is
    for size in (1 << 20, LARGE_BYTES):
        for name, head in (("says 4 s", one), ("says nothing", frames)):
            yield (
                f"MP3 of {size >> 20} MiB of silence, {name}",
                lambda s=size, h=head: (h + frames * (s // len(frames) + 1))[:s],
            )
    yield "MP3 behind 10,000 tags", lambda: id3_tag(16) * 10_000 + one
    yield (
        "MP3 behind a tag that claims 256 MiB",
        lambda: b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(1_000) + one,
    )
    yield "MP3 behind a tag of 30 MB", lambda: id3_tag(30_000_000, content=b"APIC") + one
    yield "MPEG heads and nothing else", lambda: b"\xff\xfb\x90\x64" * (LARGE_BYTES // 4)


# -------------------------------------------------------------------------------------------- WAV


def wav_bombs() -> Made:
    """Headers that claim gigabytes, and chunks within chunks."""
    for claim, bits, rate in itertools.product(
        (0, 0xFFFFFFFF, 0x7FFFFFFE), (8, 64), (4_000, 384_000)
    ):
        yield (
            f"WAV says {claim} bytes, {bits} bits, {rate} Hz",
            lambda c=claim, b=bits, r=rate: wav(bytes(4_096), claim=c, bits=b, rate_hz=r),
        )
    yield "WAV of 32 MiB at 4 kHz", lambda: wav(bytes(UPLOAD_BYTES - 44), bits=8, rate_hz=4_000)
    yield (
        "WAV of 32 MiB that says 1 s",
        lambda: wav(bytes(UPLOAD_BYTES - 44), bits=8, rate_hz=4_000, claim=4_000),
    )
    yield (
        "WAV of 600 s at 4 kHz, as much as is allowed",
        lambda: wav(bytes(2_400_000), bits=8, rate_hz=4_000),
    )
    for name, value in (("NaN", np.nan), ("infinite", np.inf), ("huge", 3e38)):
        yield (
            f"WAV of {name} floats",
            lambda v=value: wav(np.full(4_000, v, "<f4").tobytes(), tag=3, bits=32, rate_hz=8_000),
        )
    for depth in (10, 1_000, 100_000):
        yield f"RIFF nested {depth} deep", lambda d=depth: b"RIFF\xff\xff\xff\xffWAVE" * d
        yield (
            f"LIST nested {depth} deep",
            lambda d=depth: wav(b"")[:12] + b"LIST\xff\xff\xff\x7fINFO" * d,
        )
    for name in (b"cue ", b"smpl", b"PEAK", b"bext", b"cart", b"fact", b"LIST", b"id3 "):
        yield (
            f"WAV with a lying chunk {name.decode()!r}",
            lambda n=name: wav_with(n + struct.pack("<I", 64) + b"\xff" * 64),
        )
        yield (
            f"WAV with an endless chunk {name.decode()!r}",
            lambda n=name: wav_with(n + b"\xfe\xff\xff\xff" + b"\x7f" * (1 << 20)),
        )


def wav(
    content: bytes, *, claim: int | None = None, bits: int = 16, rate_hz: int = 44_100, tag: int = 1
) -> bytes:
    """Return a mono file; its header says ``claim`` bytes of sound."""
    align = bits // 8
    size = len(content) if claim is None else claim
    head = struct.pack("<IHHIIHH", 16, tag, 1, rate_hz, rate_hz * align, align, bits)
    whole = struct.pack("<I", min(size + 36, 2**32 - 1))
    return b"RIFF" + whole + b"WAVEfmt " + head + b"data" + struct.pack("<I", size) + content


def wav_with(chunk: bytes) -> bytes:
    """Return a good file with a chunk between its format and its sound."""
    good = wav(bytes(8_000))
    return good[:36] + chunk + good[36:]


# ------------------------------------------------------------------------------------------ other


def disguises() -> Made:
    """Containers and encodings that may not be decoded, behind ones that may."""
    wave_NC = sound(44_100, 1)
    adpcm = encoded(wave_NC, 44_100, "WAV", "IMA_ADPCM")
    yield "ADPCM", lambda: adpcm
    yield (
        "ADPCM behind a chunk that holds a plain format",
        lambda: (
            adpcm[:12]
            + b"JUNK"
            + struct.pack("<I", 12)
            + b"fmt \x10\0\0\0\x01\0\x01\0"
            + adpcm[12:]
        ),
    )
    yield "ADPCM behind a tag", lambda: id3_tag(100) + adpcm
    ms = encoded(wave_NC, 44_100, "WAV", "MS_ADPCM")
    guid = struct.pack("<HHI", 16, 0, 0) + bytes.fromhex("0200000000001000800000aa00389b71")
    yield (
        "ADPCM by its long name",
        lambda: (
            ms[:16]
            + struct.pack("<IH", 40, 0xFFFE)
            + ms[22:36]
            + struct.pack("<H", 22)
            + guid
            + ms[36:]
        ),
    )
    for container, subtype in (("AIFF", "PCM_16"), ("CAF", "PCM_16"), ("AU", "PCM_16"),
                               ("RF64", "PCM_16"), ("W64", "PCM_16"), ("VOC", "PCM_16"),
                               ("AIFF", "IMA_ADPCM"), ("IRCAM", "PCM_16")):  # fmt: skip
        data = encoded(wave_NC, 44_100, container, subtype)
        yield f"{container} {subtype}", lambda d=data: d
        yield f"{container} {subtype} behind a tag", lambda d=data: id3_tag(100) + d


def texts() -> Made:
    """What other programs take for a list of files to fetch."""
    lists = {
        "concat": b"concat:/etc/passwd|http://127.0.0.1:1/a.wav",
        "ffconcat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "HLS": b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nfile:///etc/passwd\n",
        "a play list": b"[playlist]\nFile1=http://127.0.0.1:1/a.mp3\n",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "nothing": b"",
        "one byte": b"R",
        "a path": b"/etc/passwd",
    }
    for name, data in lists.items():
        yield f"text: {name}", lambda d=data: d
        yield f"text: {name} behind a tag", lambda d=data: id3_tag(20) + d
    memory = io.BytesIO()
    with gzip.GzipFile(fileobj=memory, mode="wb", mtime=0) as file:
        file.write(bytes(64 << 20))
    yield "gzip of 64 MiB of zeros", memory.getvalue
