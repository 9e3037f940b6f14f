"""Voice banks and the real instruments. Where the system parts are missing, the promise is one
clear error that names the command which installs them; where they are there, they must sing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from khala.errors import CorpusError
from khala.synth.band import Band, find_soundfont
from khala.synth.compose import compose
from khala.synth.espeak import INSTALL_COMMAND
from khala.synth.form import plan_song
from khala.synth.lexicon import load_lexicon
from khala.synth.mix import RATE_HZ
from khala.synth.score import Clock, Note, SungWord
from khala.synth.singer import Singer
from khala.synth.voicebank import (
    NUM_BANDS,
    NUM_COEFFICIENTS,
    Unit,
    VoiceBank,
    _save,
    build_bank,
    cosine_basis,
)
from khala.synth.voices import VOICES


def _unit(seed: int, frames: int = 40) -> Unit:
    rng = np.random.default_rng(seed)
    return Unit(
        phonemes=("L", "AH", "V"),
        bounds_F=np.array([0, 10, 30, frames], dtype=np.int32),
        cepstra_TC=rng.normal(0.0, 6.0, (frames, NUM_COEFFICIENTS)).astype(np.float32),
        bands_TB=rng.uniform(-30.0, 0.0, (frames, NUM_BANDS)).astype(np.float32),
        voiced_T=rng.random(frames) > 0.3,
    )


def test_a_bank_gives_back_what_was_put_in(tmp_path: Path) -> None:
    """Packing to a few bytes a frame may cost a fraction of a dB, not a word."""
    units = {"love": _unit(1), "sun": _unit(2)}
    _save("test", units, tmp_path / "a.safetensors")
    bank = VoiceBank(tmp_path / "a.safetensors")
    for text, unit in units.items():
        read = bank.unit(text)
        assert read.phonemes == unit.phonemes
        np.testing.assert_array_equal(read.bounds_F, unit.bounds_F)
        np.testing.assert_array_equal(read.voiced_T, unit.voiced_T)
        error = (read.cepstra_TC - unit.cepstra_TC) @ cosine_basis()
        assert np.sqrt(np.mean(error**2)) * 10 / np.log(10) < 0.6
        np.testing.assert_allclose(read.bands_TB, unit.bands_TB, atol=0.51)


def test_a_word_that_is_not_in_the_bank_is_an_error(tmp_path: Path) -> None:
    """Silence instead of a word would be wrong ground truth."""
    _save("test", {"love": _unit(1)}, tmp_path / "a.safetensors")
    bank = VoiceBank(tmp_path / "a.safetensors")
    assert "love" in bank
    with pytest.raises(CorpusError, match="no word 'hate'"):
        bank.unit("hate")


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "flipped"])
def test_a_damaged_bank_is_refused(tmp_path: Path, damage: str) -> None:
    """A half-copied bank must not sing noise into ten hours of songs."""
    path = tmp_path / "a.safetensors"
    _save("test", {"love": _unit(1)}, path)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "text":
        path.write_text("not a bank")
    else:
        path.write_bytes(whole[:-100] + bytes([whole[-100] ^ 0xFF]) + whole[-99:])
    with pytest.raises(CorpusError, match="not a voice bank"):
        VoiceBank(path)


def test_a_missing_soundfont_names_the_command(tmp_path: Path) -> None:
    """One line that can be pasted, instead of a traceback."""
    with pytest.raises(CorpusError) as caught:
        find_soundfont(tmp_path / "none.sf2")
    assert INSTALL_COMMAND in str(caught.value)
    assert "\n" not in str(caught.value)


def _say_or_explain(error: CorpusError) -> None:
    assert INSTALL_COMMAND in str(error)


def test_the_singer_sings_the_notes_in_tune(tmp_path: Path) -> None:
    """espeak-ng and WORLD where they are installed; else the error that says how to get them."""
    voice = VOICES[0]
    path = tmp_path / "bank.safetensors"
    try:
        build_bank(voice.base, voice.speech_pitch, path, words=("love", "river"))
        singer = Singer(voice, VoiceBank(path))
    except CorpusError as error:
        _say_or_explain(error)
        return
    words = load_lexicon().words
    notes = [
        Note(part="vocals", pitch=p, start=s, end=s + 1.0) for p, s in ((64, 1), (67, 2), (62, 3))
    ]
    sung = (
        SungWord(word="love", phonemes=words["love"].phonemes, line=0, notes=(notes[0],)),
        SungWord(word="river", phonemes=words["river"].phonemes, line=0, notes=tuple(notes[1:])),
    )
    clock = Clock(bpm=90.0)
    (line,) = singer.sing(sung, clock, seed=1)
    (again,) = singer.sing(sung, clock, seed=1)
    np.testing.assert_array_equal(line.wave_N, again.wave_N)
    for note in notes:
        at = clock.seconds(note.start) + 0.3 - line.start_s
        piece = line.wave_N[int(at * RATE_HZ) : int((at + 0.1) * RATE_HZ)]
        expected_hz = 440.0 * 2.0 ** ((note.pitch - 69) / 12)
        spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 2**17))
        lags_hz = np.fft.rfftfreq(2**17, 1 / RATE_HZ)
        near = (lags_hz > expected_hz * 0.9) & (lags_hz < expected_hz * 1.1)
        found_hz = lags_hz[near][np.argmax(spectrum[near])]
        assert abs(1200 * np.log2(found_hz / expected_hz)) < 40
    assert [p.phoneme for p in line.phonemes] == ["L", "AH", "V", "R", "IH", "V", "ER"]


def test_the_band_plays_a_song_the_same_way_twice() -> None:
    """FluidSynth remembers earlier songs unless each gets a player of its own."""
    try:
        band = Band(find_soundfont(None))
    except CorpusError as error:
        _say_or_explain(error)
        return
    scores = [compose(plan_song(i, 1, tiny=True)) for i in (3, 4)]
    num = 3 * RATE_HZ
    first = band.render(scores[0], num, 5)
    band.render(scores[1], num, 5)
    np.testing.assert_array_equal(first, band.render(scores[0], num, 5))
    assert first.shape == (2, num)
    assert 0.01 < np.abs(first).max() < 4.0
