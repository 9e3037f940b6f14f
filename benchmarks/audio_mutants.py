"""Broken and hostile audio files, made on the spot: what `fuzz_audio.py` gives to the decoder.

A mutant begins as a good file. Its bytes are changed blindly, or where its container keeps numbers;
the checksums of Ogg pages are made right again, so that what was changed reaches the decoder.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soundfile

from khala.audio import _ogg_crc

EXTREMES = (0, 1, 2, 3, 7, 8, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seed:
    """A good file."""

    name: str
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """A changed file, and how it was made."""

    seed: str
    way: str
    data: bytes


def seeds() -> list[Seed]:
    """Encode short recordings in every container, encoding and layout that is allowed."""
    kinds = [
        ("wav", "WAV", "PCM_16", 44_100, 2), ("wav", "WAV", "PCM_U8", 8_000, 1),
        ("wav", "WAV", "PCM_24", 48_000, 2), ("wav", "WAV", "FLOAT", 96_000, 1),
        ("wav", "WAV", "DOUBLE", 22_050, 2), ("wav", "WAVEX", "PCM_16", 44_100, 2),
        ("flac", "FLAC", "PCM_16", 44_100, 2), ("flac", "FLAC", "PCM_24", 96_000, 1),
        ("flac", "FLAC", "PCM_S8", 16_000, 2),
        ("mp3", "MP3", "MPEG_LAYER_III", 44_100, 2), ("mp3", "MP3", "MPEG_LAYER_III", 22_050, 1),
        ("mp3", "MP3", "MPEG_LAYER_III", 8_000, 2), ("vorbis", "OGG", "VORBIS", 44_100, 2),
        ("vorbis", "OGG", "VORBIS", 8_000, 1), ("opus", "OGG", "OPUS", 48_000, 2),
        ("opus", "OGG", "OPUS", 16_000, 1),
    ]  # fmt: skip
    made = []
    for name, container, subtype, rate_hz, channels in kinds:
        wave_NC = sound(rate_hz, channels)
        data = encoded(wave_NC, rate_hz, container, subtype)
        made.append(Seed(name=f"{name} {subtype} {rate_hz} x{channels}", data=data))
        if container == "MP3":
            made.append(Seed(name=f"{name} with a tag {rate_hz}", data=id3_tag(200) + data))
    return made


def sound(rate_hz: int, channels: int, *, duration_s: float = 0.4) -> np.ndarray:
    """Return noise, a chord and a silence, so that encoders use all they have."""
    generator = np.random.default_rng(rate_hz + channels)
    time_s = np.arange(int(duration_s * rate_hz)) / rate_hz
    wave_NC = 0.2 * generator.standard_normal((len(time_s), channels))
    wave_NC[: len(time_s) // 2] *= 0.05
    wave_NC += 0.3 * np.sin(2 * np.pi * 440 * time_s)[:, None]
    wave_NC[-len(time_s) // 5 :] = 0.0
    return np.clip(wave_NC, -1.0, 1.0).astype(np.float32)


def encoded(wave_NC: np.ndarray, rate_hz: int, container: str, subtype: str) -> bytes:
    """Encode with libsndfile."""
    memory = io.BytesIO()
    soundfile.write(memory, wave_NC, rate_hz, format=container, subtype=subtype)
    return memory.getvalue()


def id3_tag(num_bytes: int, *, content: bytes = b"\0") -> bytes:
    """Return an ID3v2 tag of so many bytes."""
    size = bytes(num_bytes >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\x00\x00" + size + (content * num_bytes)[:num_bytes]


def ogg_pages(data: bytes) -> list[tuple[int, int, int]]:
    """Return where pages begin, where their content does, and where they end."""
    pages, at = [], 0
    while data[at : at + 4] == b"OggS" and at + 27 <= len(data):
        content = at + 27 + data[at + 26]
        end = content + sum(data[at + 27 : content])
        if end > len(data):
            break
        pages.append((at, content, end))
        at = end
    return pages


def sealed(page: bytes) -> bytes:
    """Return an Ogg page with the checksum that belongs to it."""
    blank = page[:22] + bytes(4) + page[26:]
    return page[:22] + struct.pack("<I", _ogg_crc(blank)) + page[26:]


def mutant(known: list[Seed], generator: np.random.Generator) -> Mutant:
    """Draw a seed and one to three ways to break it."""
    seed = known[generator.integers(len(known))]
    ways: list[Callable[..., bytes]] = [flip, extreme, cut, insert, splice, blank, repeat]
    data, names = seed.data, []
    if seed.name.startswith(("vorbis", "opus")):
        ways += [ogg_content, ogg_content, ogg_header]
    elif seed.name.startswith("wav"):
        ways += [wav_field, wav_field]
    elif seed.name.startswith("flac"):
        ways += [flac_field, flac_field]
    else:
        ways += [mp3_frame, mp3_frame]
    for _ in range(generator.integers(1, 4)):
        way = ways[generator.integers(len(ways))]
        if len(data) < 64:
            break
        other = known[generator.integers(len(known))].data
        data = way(data, other, generator)
        names.append(way.__name__)
    return Mutant(seed=seed.name, way="+".join(names), data=data)


def flip(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    """Change bytes anywhere, or near the beginning."""
    changed = bytearray(data)
    end = len(data) if generator.random() < 0.5 else min(256, len(data))
    for _ in range(int(2 ** generator.integers(0, 8))):
        changed[generator.integers(end)] = generator.integers(256)
    return bytes(changed)


def extreme(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    """Write the smallest or largest number somewhere in the first bytes, either end first."""
    at = int(generator.integers(min(len(data), 512) - 4))
    return patched(data, at, int(generator.choice([1, 2, 4])), generator)


def patched(data: bytes, at: int, size: int, generator: np.random.Generator) -> bytes:
    """Write an extreme number at a place."""
    order = "little" if generator.random() < 0.6 else "big"
    value = int(generator.choice(EXTREMES)) % 256**size
    return data[:at] + value.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


def cut(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    """Drop the end, or something in the middle."""
    first, second = sorted(int(at) for at in generator.integers(1, len(data), 2))
    return data[:first] if generator.random() < 0.5 else data[:first] + data[second:]


def insert(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    """Put noise somewhere."""
    at = int(generator.integers(len(data)))
    return data[:at] + generator.bytes(int(2 ** generator.integers(0, 14))) + data[at:]


def splice(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Go on as another file."""
    return data[: generator.integers(4, len(data))] + other[generator.integers(len(other)) :]


def blank(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    """Overwrite a stretch with one byte."""
    first, second = sorted(int(at) for at in generator.integers(4, len(data), 2))
    return data[:first] + generator.bytes(1) * (second - first) + data[second:]


def repeat(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    """Say a stretch again and again."""
    first = int(generator.integers(len(data) - 1))
    part = data[first : first + int(2 ** generator.integers(2, 12))]
    return data[: first + len(part)] + part * int(generator.integers(1, 40)) + data[first:]


def wav_field(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    """Lie in a header of WAV: sizes, channels, rates, bits, encoding."""
    sound_at = data.find(b"data") + 4
    places = [(4, 4), (16, 4), (20, 2), (22, 2), (24, 4), (28, 4), (32, 2), (34, 2), (36, 2)]
    at, size = [*places, (sound_at, 4), (sound_at, 4)][generator.integers(len(places) + 2)]
    return patched(data, min(at, len(data) - 4), size, generator)


def flac_field(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    """Lie about blocks, rates, channels and lengths of FLAC, or in the head of a frame."""
    places = [(4, 4), (8, 2), (10, 2), (12, 3), (15, 3), (18, 3), (20, 2), (22, 4)]
    frames = [at for at in range(42, len(data) - 20) if data[at] == 0xFF and data[at + 1] == 0xF8]
    if frames and generator.random() < 0.5:
        at = frames[generator.integers(len(frames))] + int(generator.integers(2, 16))
        return patched(data, at, 1, generator)
    at, size = places[generator.integers(len(places))]
    return patched(data, at, size, generator)


def mp3_frame(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    """Change heads and side information of MPEG frames."""
    heads = [at for at in range(len(data) - 40) if data[at] == 0xFF and data[at + 1] & 0xE6 == 0xE2]
    changed = bytearray(data)
    for _ in range(int(generator.integers(1, 6)) if heads else 0):
        at = heads[generator.integers(len(heads))]
        changed[at + int(generator.integers(1, 38))] = generator.integers(256)
    return bytes(changed)


def ogg_content(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    """Change what a page of Ogg holds; the page stays valid. The first three hold the tables."""
    pages = ogg_pages(data)
    if not pages:
        return data
    first = generator.random() < 0.7
    begin, content, end = pages[generator.integers(min(3, len(pages)) if first else len(pages))]
    page = bytearray(data[begin:end])
    for _ in range(int(2 ** generator.integers(0, 6)) if end > content else 0):
        page[generator.integers(content - begin, len(page))] = generator.integers(256)
    return data[:begin] + sealed(bytes(page)) + data[end:]


def ogg_header(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    """Lie in the head of a page of Ogg: flags, position, stream, number, segments."""
    pages = ogg_pages(data)
    if not pages:
        return data
    begin, content, end = pages[generator.integers(len(pages))]
    places = [(4, 1), (5, 1), (6, 4), (10, 4), (14, 4), (18, 4), (26, 1), (27, 1)]
    at, size = places[generator.integers(len(places))]
    page = patched(data[begin:end], min(at, content - begin - size), size, generator)
    return data[:begin] + sealed(page) + data[end:]
