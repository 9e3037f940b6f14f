"""Audio of any format, whole or refused."""

from __future__ import annotations

import importlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from khala.audio import write_audio
from khala.corpus.decode import decode_audio
from khala.errors import AudioError

RATE_HZ = 44_100


def tone(seconds: float = 2.0) -> np.ndarray:
    times_N = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    left_N = 0.3 * np.sin(2 * np.pi * 440 * times_N)
    return np.stack([left_N, 0.5 * left_N]).astype(np.float32)


def by_ffmpeg(path: Path, codec: str, *, rate_hz: int = RATE_HZ, layout: str = "stereo") -> Path:
    """Encode the tone with FFmpeg."""
    av: Any = pytest.importorskip("av")
    num = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        stream.bit_rate, kind = 160_000, stream.format.name
        resampler = av.AudioResampler(format=kind, layout=layout, rate=rate_hz)
        wave_CN = np.ascontiguousarray(np.resize(tone(), (num, tone().shape[1])))
        frame = av.AudioFrame.from_ndarray(wave_CN, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate_hz, 0
        for block in resampler.resample(frame):
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.m4a", "aac"), ("a.aiff", "pcm_s16be"), ("a.mka", "flac"), ("a.wma", "wmav2")],
)
def test_formats_that_only_ffmpeg_reads(tmp_path: Path, name: str, codec: str) -> None:
    """People's music is in M4A as often as in FLAC."""
    wave_CN = decode_audio(by_ffmpeg(tmp_path / name, codec), max_duration_s=60.0)
    assert wave_CN.shape[0] == 2
    assert wave_CN.shape[1] == pytest.approx(2 * RATE_HZ, abs=0.1 * RATE_HZ)
    level = wave_CN[:, 20_000:60_000].std(axis=1)
    assert level == pytest.approx([0.3 / 2**0.5, 0.15 / 2**0.5], rel=0.03)


def test_mono_at_another_rate(tmp_path: Path) -> None:
    """One channel becomes two equal ones, at 44.1 kHz, as loud as it was."""
    path = by_ffmpeg(tmp_path / "a.aiff", "pcm_s16be", rate_hz=22_050, layout="mono")
    wave_CN = decode_audio(path, max_duration_s=60.0)
    assert wave_CN.shape == (2, 4 * RATE_HZ)
    np.testing.assert_array_equal(wave_CN[0], wave_CN[1])
    assert wave_CN.std() == pytest.approx(0.3 / 2**0.5, rel=0.02)


def test_what_ffmpeg_must_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A playlist that is called a song must not open other files, or the network."""
    pytest.importorskip("av")
    write_audio(tmp_path / "secret.wav", tone(), sample_rate_hz=RATE_HZ)
    for text in (f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n", "#EXTM3U\nsecret.wav\n"):
        (tmp_path / "a.m4a").write_text(text)
        with pytest.raises(AudioError, match=r"cannot read a\.m4a"):
            decode_audio(tmp_path / "a.m4a", max_duration_s=60.0)
    with pytest.raises(AudioError, match="longer than the allowed 1 s"):
        decode_audio(by_ffmpeg(tmp_path / "b.m4a", "aac"), max_duration_s=1.0)
    surround = by_ffmpeg(tmp_path / "c.mka", "flac", layout="5.1")
    with pytest.raises(AudioError, match="6 channels; allowed: 1 or 2"):
        decode_audio(surround, max_duration_s=60.0)
    monkeypatch.setitem(importlib.import_module("sys").modules, "av", None)
    with pytest.raises(AudioError, match=r"khala\[train\]"):
        decode_audio(tmp_path / "b.m4a", max_duration_s=60.0)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".mp3", ".opus", ".m4a", ".mka"])
def test_a_file_cut_short_is_refused(tmp_path: Path, ending: str) -> None:
    """Half a song would be taught as a whole one that ends in the middle of a word."""
    path = tmp_path / f"a{ending}"
    if ending in (".m4a", ".mka"):
        by_ffmpeg(path, "aac" if ending == ".m4a" else "flac")
    else:
        write_audio(path, tone(), sample_rate_hz=RATE_HZ)
    assert decode_audio(path, max_duration_s=60.0).shape[1] >= 2 * RATE_HZ - 2000
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(AudioError):
        decode_audio(path, max_duration_s=60.0)


def test_a_stream_of_unknown_length_is_whole(tmp_path: Path) -> None:
    """Programs that write WAV to a pipe do not know its length and say 4 GB."""
    path = tmp_path / "a.wav"
    write_audio(path, tone(), sample_rate_hz=RATE_HZ)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 4, 0xFFFFFFFF)
    path.write_bytes(data)
    assert decode_audio(path, max_duration_s=60.0).shape[1] == 2 * RATE_HZ
