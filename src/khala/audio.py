"""Waveforms: read, write, resample, measure; everything between a file and float32 [C, N].

Four formats are written: WAV, FLAC, MP3 and Opus, chosen by the ending of the name. Files are
encoded in memory, block by block, written beside their final name and renamed, so a full disk or a
killed process never leaves half a song. The same wave gives the same bytes in every format.

Reading trusts nothing: only four well-known containers are opened, their headers are compared with
the allowed size before a sample is decoded, and decoding stops at that size whatever the header
said.

Torch is imported only by the mel functions, when they are called.
"""

from __future__ import annotations

import io
import math
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from khala.containers import container_of
from khala.errors import AudioError, CapacityError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FORMATS",
    "AudioFormat",
    "audio_format",
    "check_output",
    "encode_audio",
    "log_mel",
    "loudness_lufs",
    "mel_filterbank",
    "normalise",
    "read_audio",
    "replacing",
    "resample",
    "true_peak_dbtp",
    "write_audio",
]

Wave = npt.NDArray[np.float32]

BLOCK_FRAMES = 65_536
"""Written and read at a time: libvorbis and friends overflow their stack on whole songs."""

MAX_DURATION_S = 1_200.0
MIN_SAMPLE_RATE_HZ = 4_000
MAX_SAMPLE_RATE_HZ = 384_000
OGG_SERIAL = 0x4B68616C
"""libsndfile draws the serial of an Ogg stream from the clock; ours is always this one."""

TAGS = frozenset({"title", "artist", "album", "comment", "copyright", "date", "genre", "license"})


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioFormat:
    """How one ending is written."""

    container: str
    subtype: str
    sample_rates_hz: tuple[int, ...] = ()
    """Rates the format knows; empty means any. Others are resampled to the last one."""
    bytes_per_s: int
    """Upper estimate for 44.1 kHz stereo, to see a full disk before the work and not after."""


FORMATS: Mapping[str, AudioFormat] = MappingProxyType(
    {
        ".wav": AudioFormat(container="WAV", subtype="PCM_16", bytes_per_s=176_400),
        ".flac": AudioFormat(container="FLAC", subtype="PCM_16", bytes_per_s=180_000),
        ".mp3": AudioFormat(
            container="MP3",
            subtype="MPEG_LAYER_III",
            sample_rates_hz=(16_000, 22_050, 24_000, 32_000, 48_000, 44_100),
            bytes_per_s=40_000,
        ),
        ".opus": AudioFormat(
            container="OGG",
            subtype="OPUS",
            sample_rates_hz=(8_000, 12_000, 16_000, 24_000, 48_000),
            bytes_per_s=64_000,
        ),
    }
)


def audio_format(path: str | os.PathLike[str]) -> AudioFormat:
    """The format a file name asks for; AudioError names the endings that exist."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        allowed = ", ".join(FORMATS)
        raise AudioError(f"{str(path)!r}: cannot write {ending or 'no ending'!r}; use {allowed}")
    return FORMATS[ending]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` if the block ends well.

    Whatever goes wrong inside, the temporary file is removed and ``path`` keeps its old content.
    """
    temporary = path.parent / f".khala-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a full disk has no name, or a hidden one
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: str | os.PathLike[str], *, num_bytes: int = 0) -> None:
    """Raise now what writing ``path`` would raise after minutes of work.

    The folder must exist and accept a new file, and its disk must have ``num_bytes`` free.
    Errors: AudioError for the folder, CapacityError for the space.
    """
    target = Path(path)
    folder = target.parent
    probe = folder / f".khala-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        if "\0" in str(path):
            raise AudioError(f"cannot write {str(path)!r}: a file name holds no NUL character")
        if not folder.is_dir():
            raise AudioError(
                f"cannot write {str(path)!r}: the folder {str(folder)!r} does not exist"
            )
        if target.is_dir():  # also fails for names the file system cannot hold
            raise AudioError(f"cannot write {str(path)!r}: it is a folder; give a file name")
        probe.touch(exist_ok=False)
        probe.unlink()
        stat = os.statvfs(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise AudioError(f"cannot write {str(path)!r}: {reason.lower()}") from error
    free = stat.f_bavail * stat.f_frsize
    if free < num_bytes:
        raise CapacityError(
            f"cannot write {str(path)!r}: about {math.ceil(num_bytes / 1e6)} MB are needed and "
            f"{free / 1e6:.0f} MB are free in {str(folder)!r}"
        )


# ---------------------------------------------------------------------------------------- write


def write_audio(
    path: str | os.PathLike[str],
    wave_CN: npt.NDArray[np.floating[Any]],
    *,
    sample_rate_hz: int,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a wave as WAV, FLAC (16 bit), MP3 or Opus, by the ending of ``path``.

    ``wave_CN`` is mono or stereo in [-1, 1]; values that are not finite or would clip are refused:
    what is written is what was given. MP3 and Opus know few sample rates; others are resampled.
    ``metadata`` becomes the file's tags (title, artist, comment, ...). The bytes depend on the
    arguments only. Errors: AudioError; OSError when the disk refuses.
    """
    data = encode_audio(path, wave_CN, sample_rate_hz=sample_rate_hz, metadata=metadata)
    with replacing(Path(path)) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def encode_audio(
    name: str | os.PathLike[str],
    wave_CN: npt.NDArray[np.floating[Any]],
    *,
    sample_rate_hz: int,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return what `write_audio` writes under a name."""
    fmt = audio_format(name)
    wave = _checked_wave(wave_CN)
    peak = float(np.abs(wave).max(initial=0.0))
    if peak > 1.0 + 2.0**-15:
        raise AudioError(f"{str(name)!r}: the wave peaks at {peak:.3f} and would clip; allowed 1.0")
    return _encoded(wave, fmt, sample_rate_hz, metadata or {})


def _checked_wave(wave_CN: npt.NDArray[np.floating[Any]]) -> Wave:
    if wave_CN.ndim != 2 or wave_CN.shape[0] not in (1, 2):
        raise AudioError(f"a wave is [1 or 2 channels, samples], not {list(wave_CN.shape)}")
    if not np.isfinite(wave_CN).all():
        raise AudioError("the wave holds values that are not finite")
    return np.ascontiguousarray(wave_CN, dtype=np.float32)


def _encoded(
    wave_CN: Wave, fmt: AudioFormat, sample_rate_hz: int, metadata: Mapping[str, str]
) -> bytes:
    import soundfile

    for name, value in metadata.items():
        if name not in TAGS or "\0" in value:
            raise AudioError(f"cannot write the tag {name!r}; allowed: {', '.join(sorted(TAGS))}")
    if fmt.sample_rates_hz and sample_rate_hz not in fmt.sample_rates_hz:
        wave_CN = resample(wave_CN, sample_rate_hz, fmt.sample_rates_hz[-1])
        sample_rate_hz = fmt.sample_rates_hz[-1]
    memory = io.BytesIO()
    with soundfile.SoundFile(
        memory,
        "w",
        samplerate=sample_rate_hz,
        channels=wave_CN.shape[0],
        format=fmt.container,
        subtype=fmt.subtype,
    ) as file:
        for name in sorted(metadata):
            setattr(file, name, metadata[name])
        for start in range(0, wave_CN.shape[1], BLOCK_FRAMES):
            file.write(wave_CN[:, start : start + BLOCK_FRAMES].T)
    data = memory.getvalue()
    return _with_fixed_serial(data) if fmt.container == "OGG" else data


def _with_fixed_serial(data: bytes) -> bytes:
    """The same Ogg pages with a constant stream serial and the checksums that go with it."""
    pages = bytearray(data)
    start = 0
    while start < len(pages):
        num_segments = pages[start + 26]
        header_end = start + 27 + num_segments
        end = header_end + sum(pages[start + 27 : header_end])
        struct.pack_into("<I", pages, start + 14, OGG_SERIAL)
        struct.pack_into("<I", pages, start + 22, 0)
        struct.pack_into("<I", pages, start + 22, _ogg_crc(bytes(pages[start:end])))
        start = end
    return bytes(pages)


_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytes) -> int:
    """RFC 3533's CRC-32 (no reflection, zero start), through zlib's reflected one."""
    reflected = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


# ----------------------------------------------------------------------------------------- read


def read_audio(
    path: str | os.PathLike[str],
    *,
    sample_rate_hz: int = 44_100,
    max_duration_s: float = MAX_DURATION_S,
) -> Wave:
    """Decode a WAV, FLAC, MP3, Ogg Vorbis or Opus file to float32 [2, N] at ``sample_rate_hz``.

    Mono becomes two equal channels; other layouts are refused. Memory is bounded by
    ``max_duration_s`` before anything is decoded. Errors: AudioError naming the file.
    """
    import soundfile

    source = Path(path)
    try:
        _check_container(source)
        with soundfile.SoundFile(source) as file:
            _check_header(file, source, max_duration_s)
            wave_CN = _decoded(file, source, max_duration_s)
            rate_hz = int(file.samplerate)
    except (OSError, soundfile.SoundFileError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "error_string", str(error))
        raise AudioError(f"cannot read {str(path)!r}: {str(reason).lower()}") from error
    if wave_CN.shape[0] == 1:
        wave_CN = np.repeat(wave_CN, 2, axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        wave_CN = resample(wave_CN, rate_hz, sample_rate_hz)
    if not np.isfinite(wave_CN).all():
        raise AudioError(f"cannot read {str(path)!r}: it holds values that are not finite")
    return wave_CN


def _check_container(path: Path) -> None:
    """Let only known containers reach the decoder: rare ones are where its bugs live."""
    if not path.is_file():
        raise AudioError(f"cannot read {str(path)!r}: there is no such file")
    with path.open("rb") as file:
        if container_of(file) is None:
            raise AudioError(
                f"{str(path)!r} is not audio we can read; allowed: WAV, FLAC, MP3, Ogg"
            )


def _check_header(file: Any, path: Path, max_duration_s: float) -> None:
    if file.channels not in (1, 2):
        raise AudioError(f"{str(path)!r} has {file.channels} channels; allowed: 1 or 2")
    if not MIN_SAMPLE_RATE_HZ <= file.samplerate <= MAX_SAMPLE_RATE_HZ:
        raise AudioError(
            f"{str(path)!r} is sampled at {file.samplerate} Hz; "
            f"allowed: {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}"
        )
    if file.frames > max_duration_s * file.samplerate:
        raise _too_long(path, max_duration_s)


def _too_long(path: Path, max_duration_s: float) -> AudioError:
    return AudioError(f"{str(path)!r} is longer than the allowed {max_duration_s:g} s")


def _decoded(file: Any, path: Path, max_duration_s: float) -> Wave:
    """All samples [C, N]; counted while they come, as a header can say anything."""
    limit = int(max_duration_s * file.samplerate)
    blocks: list[Wave] = []
    num_frames = 0
    while True:
        block_NC = file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
        if len(block_NC) == 0:
            break
        num_frames += len(block_NC)
        if num_frames > limit:
            raise _too_long(path, max_duration_s)
        blocks.append(block_NC.T)
    if num_frames == 0:
        raise AudioError(f"{str(path)!r} holds no sound")
    return np.ascontiguousarray(np.concatenate(blocks, axis=1))


def resample(wave_CN: Wave, from_hz: int, to_hz: int) -> Wave:
    """Change the sample rate (band-limited, linear phase); the same array if nothing changes."""
    if from_hz == to_hz:
        return wave_CN
    import soxr

    return np.ascontiguousarray(soxr.resample(wave_CN.T, from_hz, to_hz).T, dtype=np.float32)


# -------------------------------------------------------------------------------------- measure


def loudness_lufs(wave_CN: Wave, *, sample_rate_hz: int = 44_100) -> float:
    """Integrated loudness (ITU-R BS.1770-4); -inf for silence and for less than 0.4 s."""
    import warnings

    import pyloudnorm

    if wave_CN.shape[1] < 0.4 * sample_rate_hz or not np.any(wave_CN):
        return -math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every gated block silent: -inf says it already
        return float(pyloudnorm.Meter(sample_rate_hz).integrated_loudness(wave_CN.T))


def true_peak_dbtp(wave_CN: Wave, *, sample_rate_hz: int = 44_100) -> float:
    """The highest point of the curve between the samples too (4x oversampled), in dB; or -inf."""
    import soxr

    stream = soxr.ResampleStream(
        sample_rate_hz, 4 * sample_rate_hz, wave_CN.shape[0], dtype="float32", quality="HQ"
    )
    peak = float(np.abs(wave_CN).max(initial=0.0))
    num_samples = wave_CN.shape[1]
    for start in range(0, num_samples, BLOCK_FRAMES):
        block = np.ascontiguousarray(wave_CN[:, start : start + BLOCK_FRAMES].T, dtype=np.float32)
        out = stream.resample_chunk(block, last=start + BLOCK_FRAMES >= num_samples)
        peak = max(peak, float(np.abs(out).max(initial=0.0)))
    return 20.0 * math.log10(peak) if peak > 0.0 else -math.inf


def normalise(
    wave_CN: Wave,
    *,
    target_lufs: float = -14.0,
    max_true_peak_dbtp: float = -1.0,
    sample_rate_hz: int = 44_100,
) -> Wave:
    """One gain for the whole wave: to ``target_lufs``, or less where the true peak would pass.

    There is no limiter, so the sound is not changed; silence is returned as it is.
    """
    loudness = loudness_lufs(wave_CN, sample_rate_hz=sample_rate_hz)
    if not math.isfinite(loudness):
        return wave_CN
    headroom_db = max_true_peak_dbtp - true_peak_dbtp(wave_CN, sample_rate_hz=sample_rate_hz)
    gain_db = min(target_lufs - loudness, headroom_db)
    return wave_CN * np.float32(10.0 ** (gain_db / 20.0))


# ------------------------------------------------------------------------------------------ mel


def mel_filterbank(
    sample_rate_hz: int, n_fft: int, n_mels: int, f_min: float = 0.0, f_max: float | None = None
) -> Tensor:
    """Triangular mel filters [n_mels, n_fft // 2 + 1], float32.

    The HTK scale, mel = 2595 log10(1 + f / 700), with peaks of 1 (no area normalisation); bands
    narrower than a bin of the transform can be empty. ``f_max`` None means half the sample rate.
    """
    import torch

    top_hz = sample_rate_hz / 2 if f_max is None else f_max
    if not 0.0 <= f_min < top_hz <= sample_rate_hz / 2:
        raise ValueError(f"mel range {f_min} to {top_hz} Hz is not within half of {sample_rate_hz}")
    low, high = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (f_min, top_hz))
    edges_mel = torch.linspace(low, high, n_mels + 2, dtype=torch.float64)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins_hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * (sample_rate_hz / n_fft)
    width_hz = edges_hz.diff()
    offset_hz = bins_hz[None, :] - edges_hz[:, None]
    rising = offset_hz[:-2] / width_hz[:-1, None]
    falling = -offset_hz[2:] / width_hz[1:, None]
    return torch.minimum(rising, falling).clamp_min(0.0).float()


def log_mel(
    wave_BN: Tensor,
    *,
    sample_rate_hz: int = 44_100,
    n_fft: int = 2_048,
    hop: int = 512,
    n_mels: int = 80,
    f_min: float = 0.0,
    f_max: float | None = None,
    floor: float = 1e-5,
) -> Tensor:
    """Natural log of the mel magnitude spectrogram: [..., N] -> [..., n_mels, N // hop + 1].

    Periodic Hann window of ``n_fft``, frames centred on multiples of ``hop`` with silence outside
    the wave, filters of :func:`mel_filterbank`, magnitudes floored at ``floor``. Differentiable.
    """
    import torch

    window = torch.hann_window(n_fft, device=wave_BN.device, dtype=wave_BN.dtype)
    flat = wave_BN.reshape(-1, wave_BN.shape[-1])
    spectrum = torch.stft(
        flat, n_fft, hop, window=window, center=True, pad_mode="constant", return_complex=True
    )
    # |x| has no gradient at zero, and digital silence is full of zeros
    magnitude = (spectrum.real**2 + spectrum.imag**2 + 1e-12).sqrt()
    filters = mel_filterbank(sample_rate_hz, n_fft, n_mels, f_min, f_max).to(magnitude)
    mel = torch.matmul(filters, magnitude).clamp_min(floor).log()
    return mel.reshape(*wave_BN.shape[:-1], *mel.shape[-2:])
