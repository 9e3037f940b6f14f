"""The singer: frames of a voice bank, re-timed to the notes and re-pitched, through WORLD."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import soxr
from scipy.signal import butter, sosfilt

from khala.synth.phonemes import DIPHTHONGS, SONORANTS, STOPS, UNVOICED, is_vowel
from khala.synth.pitch import pitch_curve
from khala.synth.placement import PlacedPhoneme, SpokenWord, place_line
from khala.synth.score import Clock, SungWord
from khala.synth.voicebank import (
    FFT_SIZE,
    FRAME_S,
    NUM_COEFFICIENTS,
    NUM_MEL,
    SAMPLE_RATE_HZ,
    Unit,
    VoiceBank,
    check_world,
    cosine_basis,
    mel_points_hz,
)
from khala.synth.voices import Voice

OUT_RATE_HZ = 44100
_EDGE_S = 0.03
"""Silence rendered around each line, for the tails of WORLD's impulses."""

_TRANSITION_S = 0.05
"""The edge of a vowel that keeps its natural pace when the middle is stretched."""

_VOWEL_LEVEL = math.log(2e-3)
"""Mean log power to which every vowel is brought; the mix sets the loudness afterwards."""

_CONSONANT_GAIN = math.log(10.0 ** (3.0 / 10.0))


@dataclass(frozen=True, slots=True)
class SungLine:
    """One line of singing: its sound and where it starts, and its phonemes in song time."""

    start_s: float
    wave_N: np.ndarray
    phonemes: tuple[PlacedPhoneme, ...]


class Singer:
    """A voice with its bank. Raises ``CorpusError`` when pyworld is missing."""

    def __init__(self, voice: Voice, bank: VoiceBank) -> None:
        self._world = check_world()
        self.voice = voice
        self._bank = bank
        self._decode_CF, self._tilt_F = _decoder(voice)

    def sing(self, words: tuple[SungWord, ...], clock: Clock, seed: int) -> list[SungLine]:
        """Sing all lines of a song. ``seed`` gives each song its own small imperfections."""
        lines: dict[int, list[tuple[int, SungWord]]] = {}
        for number, word in enumerate(words):
            lines.setdefault(word.line, []).append((number, word))
        rng = np.random.Generator(np.random.PCG64(seed))
        return [self._sing_line(line, clock, rng) for line in lines.values()]

    def _sing_line(
        self, words: list[tuple[int, SungWord]], clock: Clock, rng: np.random.Generator
    ) -> SungLine:
        units = {number: self._bank.unit(word.word) for number, word in words}
        spoken = [_spoken(units[number]) for number, _ in words]
        phonemes = place_line(words, spoken, clock)
        start_s = phonemes[0].start_s - _EDGE_S
        num_frames = math.ceil((phonemes[-1].end_s - start_s + _EDGE_S) / FRAME_S)
        times_T = start_s + np.arange(num_frames) * FRAME_S
        cepstra_TC, bands_TB, voiced_T = _frames(units, phonemes, times_T)
        notes = [note for _, word in words for note in word.notes]
        f0_T = pitch_curve(self.voice, notes, clock, times_T, rng) * voiced_T
        wave = self._synthesise(f0_T, cepstra_TC, bands_TB)
        return SungLine(start_s, _to_full_band(wave), tuple(phonemes))

    def _synthesise(
        self, f0_T: np.ndarray, cepstra_TC: np.ndarray, bands_TB: np.ndarray
    ) -> np.ndarray:
        # einsum, not a matrix product: the product's rounding depends on the number of threads.
        log_TF = np.einsum("tc,cf->tf", cepstra_TC, self._decode_CF) + self._tilt_F
        power_TF = np.exp(log_TF).astype(np.float64)
        noise_TF = self._world.decode_aperiodicity(
            np.ascontiguousarray(bands_TB, dtype=np.float64), SAMPLE_RATE_HZ, FFT_SIZE
        )
        if self.voice.breath > 0:
            noise_TF = np.minimum(1.0, noise_TF + self.voice.breath * (1.0 - noise_TF) * 0.5)
        f0_T = np.ascontiguousarray(f0_T, dtype=np.float64)
        wave = self._world.synthesize(f0_T, power_TF, noise_TF, SAMPLE_RATE_HZ, 1e3 * FRAME_S)
        return np.asarray(wave, dtype=np.float32)


def _decoder(voice: Voice) -> tuple[np.ndarray, np.ndarray]:
    """Matrix from cepstra to log power at FFT bins, formants moved; and the voice's tilt."""
    bins_hz = np.arange(FFT_SIZE // 2 + 1) * SAMPLE_RATE_HZ / FFT_SIZE
    position = np.interp(bins_hz / voice.formants, mel_points_hz(), np.arange(NUM_MEL))
    low = np.minimum(position.astype(int), NUM_MEL - 2)
    part = position - low
    basis = cosine_basis()
    matrix = basis[:, low] * (1.0 - part) + basis[:, low + 1] * part
    octaves = np.log2(np.maximum(bins_hz, 500.0) / 500.0)
    tilt = voice.tilt_db_per_octave * octaves * math.log(10.0) / 10.0
    return matrix.astype(np.float32), tilt.astype(np.float32)


def _spoken(unit: Unit) -> SpokenWord:
    lengths = [max(FRAME_S, float(s)) for s in np.diff(unit.bounds_F) * FRAME_S]
    lengths[0] += _closure_s(unit.phonemes[0])
    return SpokenWord(unit.phonemes, tuple(lengths))


def _closure_s(phoneme: str) -> float:
    """The silence of a stop that opens a word, which the bank's units begin after."""
    if phoneme not in STOPS:
        return 0.0
    return 0.045 if phoneme in UNVOICED else 0.025


def _source_knots(name: str, length_s: float, natural_s: float) -> tuple[list[float], list[float]]:
    """How a phoneme's own time maps to sung time, as matching knots from 0 to its ends.

    Consonants are scaled; vowels keep their edges and stretch their steady part; diphthongs
    hold their first vowel and glide at the end.
    """
    if not is_vowel(name) or length_s <= natural_s:
        return [0.0, natural_s], [0.0, length_s]
    head, tail = (0.15, 0.6) if name in DIPHTHONGS else (0.3, 0.3)
    head_s = min(_TRANSITION_S, head * natural_s)
    tail_s = tail * natural_s if name in DIPHTHONGS else min(_TRANSITION_S, tail * natural_s)
    return (
        [0.0, head_s, natural_s - tail_s, natural_s],
        [0.0, head_s, length_s - tail_s, length_s],
    )


def _frames(
    units: dict[int, Unit], phonemes: list[PlacedPhoneme], times_T: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bank's frames at the song's times; silence is very quiet."""
    num = len(times_T)
    cepstra = np.zeros((num, NUM_COEFFICIENTS), dtype=np.float32)
    cepstra[:, 0] = -18.0 * math.sqrt(NUM_MEL)
    bands = np.zeros((num, 2), dtype=np.float32)
    voiced = np.zeros(num, dtype=bool)
    for placed in phonemes:
        unit = units[placed.word]
        first, last = unit.bounds_F[placed.position], unit.bounds_F[placed.position + 1]
        left = int(np.searchsorted(times_T, placed.start_s - 1e-9))
        right = int(np.searchsorted(times_T, placed.end_s - 1e-9))
        natural_s = max(1, last - first) * FRAME_S
        length_s = placed.end_s - placed.start_s
        sound_s = placed.start_s
        if placed.position == 0:
            closure_s = _closure_s(placed.phoneme)
            sound_s += length_s * closure_s / (closure_s + natural_s)
            left = int(np.searchsorted(times_T, sound_s - 1e-9))
        if right <= left:
            continue
        source, target = _source_knots(placed.phoneme, placed.end_s - sound_s, natural_s)
        at = first + np.interp(times_T[left:right] - sound_s, target, source) / FRAME_S
        top = unit.bounds_F[-1] - 1
        low = np.clip(at.astype(int), 0, top)
        high = np.minimum(low + 1, top)
        part = (at - low)[:, None].astype(np.float32)
        rows = unit.cepstra_TC[low] * (1.0 - part) + unit.cepstra_TC[high] * part
        rows[:, 0] += _level(unit, placed)
        cepstra[left:right] = rows
        bands[left:right] = np.minimum(unit.bands_TB[low], _most_noise(placed.phoneme))
        voiced[left:right] = unit.voiced_T[low] | is_vowel(placed.phoneme)
    return cepstra, bands, voiced


def _most_noise(phoneme: str) -> tuple[float, float]:
    """Noise share in dB that a phoneme may have: WORLD takes some clear vowels for breath."""
    if is_vowel(phoneme):
        return -8.0, -3.0
    return (-6.0, -3.0) if phoneme in SONORANTS else (0.0, 0.0)


def _level(unit: Unit, placed: PlacedPhoneme) -> float:
    """Shift of the level coefficient: all vowels equally loud, consonants a little forward."""
    vowel_levels: list[tuple[int, float]] = []
    for position, name in enumerate(unit.phonemes):
        first, last = unit.bounds_F[position], unit.bounds_F[position + 1]
        if is_vowel(name) and last > first:
            log_power = np.einsum("tc,c->t", unit.cepstra_TC[first:last], _POWER_ROW)
            vowel_levels.append((position, float(np.percentile(log_power, 75))))
    if not vowel_levels:
        return 0.0
    if is_vowel(placed.phoneme):
        mine = min(vowel_levels, key=lambda v: abs(v[0] - placed.position))[1]
        shift = _VOWEL_LEVEL - mine
    else:
        shift = _VOWEL_LEVEL - max(level for _, level in vowel_levels) + _CONSONANT_GAIN
    return shift * math.sqrt(NUM_MEL)


def _power_row() -> np.ndarray:
    """Weights that read the mean log power between 200 and 4,000 Hz off the cepstra."""
    points = mel_points_hz()
    inside = ((points > 200.0) & (points < 4000.0)).astype(np.float64)
    return np.asarray(cosine_basis() @ (inside / inside.sum()), dtype=np.float32)


_POWER_ROW = _power_row()


def _to_full_band(wave_N: np.ndarray) -> np.ndarray:
    """22.05 to 44.1 kHz; above 11 kHz a softened mirror of the band below gives back some air."""
    doubled = soxr.resample(wave_N, SAMPLE_RATE_HZ, OUT_RATE_HZ, quality="HQ")
    # Only what lies above 6 kHz is mirrored: below are the loud harmonics of the vowels.
    top = butter(6, 6000.0, "highpass", fs=SAMPLE_RATE_HZ, output="sos")
    high = sosfilt(top, wave_N).astype(np.float32)
    stuffed = np.zeros(2 * len(wave_N), dtype=np.float32)
    stuffed[::2] = 2.0 * high
    smooth = soxr.resample(high, SAMPLE_RATE_HZ, OUT_RATE_HZ, quality="HQ")
    num = min(len(doubled), len(stuffed), len(smooth))
    image = stuffed[:num] - smooth[:num]
    return np.asarray(doubled[:num] + 0.6 * image, dtype=np.float32)
