"""The peers a codec is compared with, run on the same clips in the same run.

Opus is asked for hard constant bitrate: its default, VBR, spends far more than the rate it is
given on dense music, and a comparison at "16 kbit/s" would be one at 22. The bitrate reported is
always the one measured on the packets, never the one asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import soxr

from khala.errors import ConfigError
from khala.evals.distances import SAMPLE_RATE_HZ, Wave

OPUS_RATE_HZ = 48_000
OPUS_FRAME = 960
MAX_DELAY_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerResult:
    """What a peer made of one clip."""

    wave_CN: Wave
    """The reconstruction, 44.1 kHz, aligned with and as long as the clip."""

    kbit_s: float
    """Bits of all packets, or of the coded file, over the clip's duration."""

    delay_samples: int
    """The delay that was taken out, in samples (of 48 kHz for Opus)."""


def run_peer(name: str, wave_CN: Wave) -> PeerResult:
    """Return the reconstruction by the peer ``name``, such as ``opus-16`` (hard CBR, kbit/s).

    Raises:
        ConfigError: the name is no peer, or PyAV (the ``eval`` extra) is not installed.
    """
    kind, _, rate = name.partition("-")
    if kind != "opus" or not rate.isdigit() or not 6 <= int(rate) <= 256:
        raise ConfigError(f"unknown peer {name!r}: give opus-N with N kbit/s from 6 to 256")
    return opus_hard_cbr(wave_CN, kbit_s=int(rate))


def opus_hard_cbr(wave_CN: Wave, *, kbit_s: int) -> PeerResult:
    """Encode and decode a stereo 44.1 kHz wave with libopus at a constant bitrate.

    Raises:
        ConfigError: PyAV is not installed, or its FFmpeg has no libopus.
    """
    av = _pyav()
    up_NC = soxr.resample(np.ascontiguousarray(wave_CN.T), SAMPLE_RATE_HZ, OPUS_RATE_HZ)
    up_CN = np.ascontiguousarray(up_NC.T, dtype=np.float32)
    packets, pre_skip = _encode(av, up_CN, kbit_s)
    # Shifted before going back to 44.1 kHz: the encoder's 312 samples are 286.65 there, and the
    # missing third of a sample alone would cap the SDR at 23 dB. The stream's own pre-skip is
    # exact; at low rates the correlation's peak can be two samples off, so it only checks.
    decoded_CN = _decode(av, packets)
    delay = pre_skip or find_delay(up_CN, decoded_CN)
    aligned_CN = shift(decoded_CN, delay, num_samples=up_CN.shape[1])
    down_NC = soxr.resample(np.ascontiguousarray(aligned_CN.T), OPUS_RATE_HZ, SAMPLE_RATE_HZ)
    down_CN = np.zeros_like(wave_CN)
    num_samples = min(wave_CN.shape[1], down_NC.shape[0])
    down_CN[:, :num_samples] = down_NC.T[:, :num_samples]
    num_bits = 8 * sum(len(bytes(packet)) for packet in packets)
    return PeerResult(
        wave_CN=down_CN,
        kbit_s=num_bits / 1000 / (len(packets) * OPUS_FRAME / OPUS_RATE_HZ),
        delay_samples=delay,
    )


def find_delay(original_CN: Wave, other_CN: Wave) -> int:
    """Return by how many samples ``other_CN`` comes later: the cross-correlation's peak."""
    num_samples = original_CN.shape[1]
    size = 1 << int(np.ceil(np.log2(num_samples + other_CN.shape[1])))
    spectrum = np.fft.rfft(other_CN.mean(axis=0), size) * np.conj(
        np.fft.rfft(original_CN.mean(axis=0), size)
    )
    correlation = np.fft.irfft(spectrum, size)
    reach = min(int(MAX_DELAY_S * OPUS_RATE_HZ), num_samples - 1)
    lags = np.concatenate([np.arange(reach + 1), np.arange(-reach, 0)])
    return int(lags[np.argmax(correlation[lags])])


def shift(wave_CN: Wave, delay: int, *, num_samples: int) -> Wave:
    """Return ``num_samples`` of the wave, ``delay`` samples earlier, zeros where it has none."""
    shifted_CN = np.zeros((wave_CN.shape[0], num_samples), dtype=np.float32)
    first = min(max(0, -delay), num_samples)
    source_CN = wave_CN[:, max(0, delay) :][:, : num_samples - first]
    shifted_CN[:, first : first + source_CN.shape[1]] = source_CN
    return shifted_CN


def _encode(av: Any, wave_CN: Wave, kbit_s: int) -> tuple[list[Any], int]:
    """Return the packets and the stream's pre-skip in samples of 48 kHz (0 if not told)."""
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate = OPUS_RATE_HZ
    encoder.layout = "stereo"
    encoder.format = "flt"
    encoder.bit_rate = kbit_s * 1000
    encoder.time_base = Fraction(1, OPUS_RATE_HZ)
    encoder.options = {"vbr": "off", "application": "audio", "frame_duration": "20"}
    encoder.open()
    # One frame of silence more than the clip: the encoder's look-ahead must come out as well.
    num_frames = -(-wave_CN.shape[1] // OPUS_FRAME) + 1
    padded_CN = np.zeros((2, num_frames * OPUS_FRAME), dtype=np.float32)
    padded_CN[:, : wave_CN.shape[1]] = wave_CN
    packets: list[Any] = []
    for index in range(num_frames):
        block_CN = padded_CN[:, index * OPUS_FRAME : (index + 1) * OPUS_FRAME]
        packed = np.ascontiguousarray(block_CN.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout="stereo")
        frame.sample_rate = OPUS_RATE_HZ
        frame.pts = index * OPUS_FRAME
        packets.extend(encoder.encode(frame))
    packets.extend(encoder.encode(None))
    head = bytes(encoder.extradata or b"")
    is_opus_head = head.startswith(b"OpusHead") and len(head) >= 12
    return packets, int.from_bytes(head[10:12], "little") if is_opus_head else 0


def _decode(av: Any, packets: list[Any]) -> Wave:
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate = OPUS_RATE_HZ
    decoder.layout = "stereo"
    decoder.open()
    blocks = []
    for packet in [*packets, None]:
        for frame in decoder.decode(packet):
            block = frame.to_ndarray()
            if not frame.format.is_planar:
                block = block.reshape(-1, 2).T
            if block.dtype == np.int16:
                block = block.astype(np.float32) / 32768.0
            blocks.append(block.astype(np.float32))
    return np.ascontiguousarray(np.concatenate(blocks, axis=1))


def _pyav() -> Any:
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise ConfigError(
            "the Opus peer needs PyAV: pip install 'khala[eval]', or give --peers none"
        ) from error
    if "libopus" not in av.codecs_available:
        raise ConfigError("this PyAV has no libopus encoder: give --peers none")
    return av
