"""Audio files in and out."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from khala.audio import (
    FORMATS,
    audio_format,
    check_output,
    log_mel,
    loudness_lufs,
    mel_filterbank,
    normalise,
    read_audio,
    replacing,
    resample,
    true_peak_dbtp,
    write_audio,
)
from khala.errors import AudioError, CapacityError

ENDINGS = [".wav", ".flac", ".mp3", ".opus"]


def tone(duration_s: float = 0.5, *, hz: float = 440.0, level: float = 0.5) -> Any:
    time_s = np.arange(int(duration_s * 44_100)) / 44_100
    left = level * np.sin(2 * np.pi * hz * time_s)
    return np.stack([left, 0.5 * left]).astype(np.float32)


@pytest.mark.parametrize("ending", ENDINGS)
def test_round_trip_keeps_the_sound(ending: str, tmp_path: Path) -> None:
    """A song sounds like itself in every format: same length, same pitch, same loudness."""
    wave = tone()
    path = tmp_path / f"a{ending}"
    write_audio(path, wave, sample_rate_hz=44_100)
    back = read_audio(path)
    assert back.dtype == np.float32
    assert back.shape[0] == 2
    assert abs(back.shape[1] - wave.shape[1]) <= 2
    for channel in range(2):
        spectrum = np.abs(np.fft.rfft(back[channel]))
        assert np.argmax(spectrum) * 44_100 / back.shape[1] == pytest.approx(440, abs=3)
    assert np.sqrt((back**2).mean()) == pytest.approx(np.sqrt((wave**2).mean()), rel=0.05)
    if ending in (".wav", ".flac"):
        assert np.abs(back - wave).max() < 1e-4


WRITE_ALL = """
import sys
from pathlib import Path
import numpy as np
from khala.audio import write_audio
wave = 0.5 * np.sin(np.arange(40_000, dtype=np.float32) / 16)[None].repeat(2, 0)
for ending in (".wav", ".flac", ".mp3", ".opus"):
    path = Path(sys.argv[1]) / ("a" + ending)
    write_audio(path, wave, sample_rate_hz=44_100, metadata={"title": "x"})
assert "torch" not in sys.modules, "audio files must not need torch"
"""


def test_same_wave_same_bytes(tmp_path: Path) -> None:
    """A listener who repeats a seed gets the same file, whatever the clock says."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", WRITE_ALL, tmp_path / name], check=True)
    for ending in ENDINGS:
        first, second = (tmp_path / name / f"a{ending}" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes(), ending


@pytest.mark.parametrize("ending", ENDINGS)
def test_two_minutes_of_stereo_are_written(ending: str, tmp_path: Path) -> None:
    """A whole song does not crash the encoder (OGG did, in one piece)."""
    wave = np.zeros((2, 44_100 * 90), np.float32)
    write_audio(tmp_path / f"a{ending}", wave, sample_rate_hz=44_100)
    assert (tmp_path / f"a{ending}").stat().st_size > 1_000


def test_tags_are_stored(tmp_path: Path) -> None:
    """A player shows where the song came from."""
    import soundfile

    for ending in ENDINGS:
        path = tmp_path / f"a{ending}"
        write_audio(path, tone(), sample_rate_hz=44_100, metadata={"comment": "made by AI"})
        with soundfile.SoundFile(path) as file:
            assert file.comment == "made by AI"
    with pytest.raises(AudioError, match="allowed"):
        write_audio(tmp_path / "b.wav", tone(), sample_rate_hz=44_100, metadata={"hat": "x"})


@pytest.mark.parametrize("name", ["a.aac", "a", "a.wav.zip", ".wav/", "a.ogg"])
def test_unknown_endings_name_the_known_ones(name: str) -> None:
    """A user who asks for AAC learns at once what is possible."""
    with pytest.raises(AudioError, match=r"\.wav, \.flac, \.mp3, \.opus") as info:
        audio_format(name)
    assert "\n" not in str(info.value)


def test_upper_case_ending(tmp_path: Path) -> None:
    """SONG.WAV is a WAV."""
    write_audio(tmp_path / "A.WAV", tone(), sample_rate_hz=44_100)
    assert audio_format("A.WAV") is FORMATS[".wav"]


@pytest.mark.parametrize(
    ("wave", "word"),
    [
        (np.full((2, 100), np.nan, np.float32), "finite"),
        (np.full((2, 100), np.inf, np.float32), "finite"),
        (np.full((2, 100), 1.5, np.float32), "clip"),
        (np.zeros((3, 100), np.float32), "channels"),
        (np.zeros(100, np.float32), "channels"),
    ],
)
def test_bad_waves_are_refused_and_leave_nothing(wave: Any, word: str, tmp_path: Path) -> None:
    """A broken model gives an error, never a file of noise or clipped sound."""
    with pytest.raises(AudioError, match=word):
        write_audio(tmp_path / "a.wav", wave, sample_rate_hz=44_100)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    """A temporary name, or none, tells a user nothing."""
    path = tmp_path / "song.wav"
    with pytest.raises(OSError, match=r"song\.wav"), replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=r"song\.wav"), replacing(path) as temporary:
        temporary.read_bytes()
    with pytest.raises(FileNotFoundError, match="other"), replacing(path):
        (tmp_path / "other").read_bytes()


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while writing costs neither the old song nor leaves half of a new."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_audio(path, tone(), sample_rate_hz=44_100)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]


def test_output_is_checked_before_the_work(tmp_path: Path) -> None:
    """Nobody waits a minute to hear that the folder does not exist or the disk is full."""
    check_output(tmp_path / "a.wav")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AudioError, match="does not exist"):
        check_output(tmp_path / "no" / "a.wav")
    with pytest.raises(AudioError, match="is a folder"):
        check_output(tmp_path)
    with pytest.raises(AudioError, match="cannot write"):
        check_output("/proc/song.wav")
    with pytest.raises(AudioError, match="too long"):
        check_output(tmp_path / ("a" * 300 + ".wav"))
    with pytest.raises(CapacityError, match="MB are free"):
        check_output(tmp_path / "a.wav", num_bytes=10**18)


def test_mono_and_other_rates_become_stereo_44100(tmp_path: Path) -> None:
    """Old recordings come in at the right speed and on both ears."""
    mono = resample(tone()[:1], 44_100, 22_050)
    write_audio(tmp_path / "a.flac", mono, sample_rate_hz=22_050)
    back = read_audio(tmp_path / "a.flac")
    assert back.shape == (2, 22_050)
    assert np.array_equal(back[0], back[1])


def test_missing_and_url_names() -> None:
    """A pasted address is simply a file that is not there: nothing is fetched."""
    for name in ("https://example.com/a.wav", "no.wav", "/", "file:///etc/passwd", "\x00"):
        with pytest.raises(AudioError):
            read_audio(name)


def test_too_long_is_refused_from_the_header(tmp_path: Path) -> None:
    """A tiny file that claims hours cannot fill the memory."""
    write_audio(tmp_path / "a.wav", tone(), sample_rate_hz=44_100)
    with pytest.raises(AudioError, match=r"longer than the allowed 0.1 s"):
        read_audio(tmp_path / "a.wav", max_duration_s=0.1)


def test_damaged_and_foreign_files_are_one_clear_line(tmp_path: Path) -> None:
    """Whatever is in a file, the answer is a sentence and not a crash."""
    write_audio(tmp_path / "a.wav", tone(0.05), sample_rate_hz=44_100)
    good = (tmp_path / "a.wav").read_bytes()
    adpcm = bytearray(good)
    struct.pack_into("<H", adpcm, good.find(b"fmt ") + 8, 0x11)
    rng = np.random.default_rng(0)
    cases = [b"", b"R", b"hello", good[:20], good[:44], bytes(adpcm), rng.bytes(5_000)]
    cases += [b"fLaC" + rng.bytes(500), b"OggS" + rng.bytes(500), b"ID3" + rng.bytes(500)]
    for data in cases:
        (tmp_path / "b.wav").write_bytes(data)
        with pytest.raises(AudioError) as info:
            read_audio(tmp_path / "b.wav")
        assert "\n" not in str(info.value)


def test_loudness_and_true_peak_of_known_signals() -> None:
    """Songs come out as loud as promised: BS.1770's calibration tone reads what it must."""
    time_s = np.arange(44_100 * 3) / 44_100
    sine = np.sin(2 * np.pi * 997 * time_s).astype(np.float32)
    assert loudness_lufs(np.stack([sine, 0 * sine])) == pytest.approx(-3.01, abs=0.1)
    # a tone at a quarter of the rate, sampled 45 degrees off its peaks, hides 3 dB
    hidden = np.sin(np.pi / 2 * np.arange(8_192) + np.pi / 4).astype(np.float32)[None]
    assert 20 * np.log10(np.abs(hidden).max()) == pytest.approx(-3.01, abs=0.01)
    assert true_peak_dbtp(hidden[:, :] * np.hanning(8_192)[None]) == pytest.approx(0.0, abs=0.1)
    silence = np.zeros((2, 44_100), np.float32)
    assert loudness_lufs(silence) == true_peak_dbtp(silence) == -np.inf
    assert normalise(silence) is silence


def test_normalise_meets_target_and_ceiling() -> None:
    """No song is louder than its ceiling, and none is quieter than it needs to be."""
    out = normalise(tone(2.0, level=0.02), target_lufs=-20.0)
    assert loudness_lufs(out) == pytest.approx(-20.0, abs=0.05)
    loud = normalise(tone(2.0), target_lufs=0.0, max_true_peak_dbtp=-1.0)
    assert true_peak_dbtp(loud) == pytest.approx(-1.0, abs=0.05)


def test_mel_filters_against_the_slow_definition() -> None:
    """Plots and losses put energy at the pitch where it is."""
    filters = mel_filterbank(44_100, 512, 20, 50.0, 16_000.0)
    mel = lambda hz: 2595 * np.log10(1 + hz / 700)  # noqa: E731
    edges = 700 * (10 ** (np.linspace(mel(50.0), mel(16_000.0), 22) / 2595) - 1)
    for band in range(20):
        for index in range(257):
            hz = index * 44_100 / 512
            a, b, c = edges[band : band + 3]
            want = max(0.0, min((hz - a) / (b - a), (c - hz) / (c - b)))
            assert filters[band, index].item() == pytest.approx(want, abs=1e-5)


def test_log_mel_shape_place_and_gradient() -> None:
    """The loudest band of a tone is the tone's band, and silence trains without NaN."""
    wave = torch.from_numpy(tone(0.3, hz=1_000.0))
    mel = log_mel(wave)
    assert mel.shape == (2, 80, wave.shape[1] // 512 + 1)
    band = int(mel[0].mean(-1).argmax())
    assert mel_filterbank(44_100, 2_048, 80)[band, round(1_000 * 2_048 / 44_100)] > 0
    silence = torch.zeros(1, 3_000, requires_grad=True)
    log_mel(silence).sum().backward()
    assert silence.grad is not None
    assert torch.isfinite(silence.grad).all()


def test_a_format_that_only_looks_allowed_is_refused(tmp_path: Path) -> None:
    """ADPCM decoders have known holes; a format chunk within another chunk must not let them in."""
    import soundfile

    plain = tmp_path / "plain.wav"
    soundfile.write(plain, np.zeros((2_000, 2)), 44_100, format="WAV", subtype="MS_ADPCM")
    data = plain.read_bytes()
    decoy = b"fmt " + (16).to_bytes(4, "little") + b"\x01\x00\x02\x00" + bytes(12)
    junk = b"JUNK" + len(decoy).to_bytes(4, "little") + decoy
    hidden = data[:12] + junk + data[12:]
    tagged = b"ID3\x04\x00\x00\x00\x00\x00\x00" + data
    for number, content in enumerate((data, hidden, tagged)):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(content)
        with pytest.raises(AudioError, match="not audio we can read"):
            read_audio(path)


def test_numbers_that_overflow_on_the_way_are_refused(tmp_path: Path) -> None:
    """Finite samples can become none when the rate is changed, and one of those silences a song."""
    import soundfile

    huge = np.tile(np.float32([3e38, -3e38]), 2_000)
    soundfile.write(tmp_path / "huge.wav", huge, 22_050, format="WAV", subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        read_audio(tmp_path / "huge.wav")
