"""The tiny corpus: songs of a few seconds from arithmetic alone, for tests and first steps.

Score, placement, mix and ground truth are those of the real corpus; only the instruments are
other: sums of sines and noise for the band, and for the singer pulses and noise shaped by the
formants of each phoneme (vowels after Peterson and Barney, J. Acoust. Soc. Am. 24, 1952).
"""

from __future__ import annotations

import math

import numpy as np
import soxr

from khala.synth.compose import compose
from khala.synth.form import plan_song
from khala.synth.mix import RATE_HZ, mix_song
from khala.synth.phonemes import is_vowel
from khala.synth.pitch import pitch_curve
from khala.synth.placement import PlacedPhoneme, SpokenWord, place_line
from khala.synth.render import RenderedSong
from khala.synth.score import DRUMS, Note, Score, SungWord, stream
from khala.synth.styles import INSTRUMENTS
from khala.synth.truth import Sung, song_truth
from khala.synth.voices import voice_named

_VOICE_RATE_HZ = 22050
_FRAME, _HOP = 440, 110
"""Samples of the singer's analysis frame and its step: 5 ms."""

_FORMANTS_HZ: dict[str, tuple[int, int, int]] = {
    "AA": (730, 1090, 2440), "AE": (660, 1720, 2410), "AH": (640, 1190, 2390),
    "AO": (570, 840, 2410), "AX": (500, 1400, 2400), "EH": (530, 1840, 2480),
    "ER": (490, 1350, 1690), "IH": (390, 1990, 2550), "IY": (270, 2290, 3010),
    "UH": (440, 1020, 2240), "UW": (300, 870, 2240), "L": (360, 1000, 2600),
    "R": (330, 1100, 1500), "W": (300, 650, 2300), "Y": (270, 2250, 3000),
    "M": (250, 1000, 2200), "N": (250, 1600, 2500), "NG": (250, 2100, 2600),
}  # fmt: skip
_GLIDES: dict[str, tuple[str, str]] = {
    "AW": ("AA", "UH"), "AY": ("AA", "IH"), "EY": ("EH", "IY"), "OW": ("AO", "UH"),
    "OY": ("AO", "IH"),
}  # fmt: skip
_NOISE: dict[str, tuple[float, float, float, bool]] = {
    "B": (700, 500, 0.25, True), "CH": (3200, 1200, 0.8, False), "D": (3800, 1500, 0.3, True),
    "DH": (6000, 2500, 0.15, True), "F": (7500, 3000, 0.3, False), "G": (1900, 700, 0.3, True),
    "HH": (1700, 1200, 0.3, False), "JH": (3000, 1200, 0.5, True), "K": (1900, 700, 0.6, False),
    "P": (800, 500, 0.5, False), "S": (7000, 1500, 0.9, False), "SH": (3300, 1000, 0.9, False),
    "T": (4500, 1500, 0.7, False), "TH": (6500, 2500, 0.25, False), "V": (6500, 3000, 0.15, True),
    "Z": (7000, 1500, 0.5, True), "ZH": (3300, 1000, 0.5, True),
}  # fmt: skip
"""Consonant -> centre and width of its noise in Hz, its level, and whether the voice sounds."""


def render_tiny_song(index: int, seed: int) -> RenderedSong:
    """Compose and render tiny song ``index``; a pure function of (index, seed)."""
    score = compose(plan_song(index, seed, tiny=True))
    num_samples = round(score.plan.duration_s * RATE_HZ)
    noise = stream(seed, index, "noise").getrandbits(48)
    rng = np.random.Generator(np.random.PCG64(noise))
    vocals_N, sung = _sing(score, num_samples, rng)
    band_CN = _play(score, num_samples, rng)
    over_db = stream(seed, index, "mix").uniform(4.0, 6.5)
    mix = mix_song(vocals_N, band_CN, vocal_over_band_db=over_db, seed=noise)
    return RenderedSong(mix, song_truth(score, sung, num_samples / RATE_HZ))


def _play(score: Score, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Every note of the band, float32 [2, num_samples]."""
    wave_CN = np.zeros((2, num_samples), dtype=np.float32)
    clock = score.plan.clock
    for note in score.band:
        start = round(clock.seconds(note.start) * RATE_HZ)
        length_s = clock.seconds(note.end) - clock.seconds(note.start) + 0.05
        sound = _drum(note, rng) if note.part == DRUMS else _tone(note, length_s, score)
        sound = sound[: max(0, num_samples - start)]
        place = 0.0 if note.part == DRUMS else INSTRUMENTS[note.part][1]
        wave_CN[0, start : start + len(sound)] += sound * math.sqrt(0.5 * (1.0 - place))
        wave_CN[1, start : start + len(sound)] += sound * math.sqrt(0.5 * (1.0 + place))
    return wave_CN


def _tone(note: Note, length_s: float, score: Score) -> np.ndarray:
    """Three harmonics whose balance comes from the instrument's program."""
    t = np.arange(int(length_s * RATE_HZ), dtype=np.float32) / np.float32(RATE_HZ)
    phase = np.float32(2 * np.pi * 440.0 * 2.0 ** ((note.pitch - 69) / 12)) * t
    program = score.programs[note.part]
    sound = np.sin(phase)
    for harmonic in (2, 3):
        sound += (0.15 + 0.1 * ((program * harmonic) % 5)) * np.sin(harmonic * phase)
    fade = np.minimum(1.0, np.minimum(t / 0.005, (length_s - t) / 0.05))
    return np.asarray(0.05 * note.velocity / 127 * sound * fade * np.exp(-2.0 * t))


def _drum(note: Note, rng: np.random.Generator) -> np.ndarray:
    decay_s = {36: 0.09, 38: 0.07, 40: 0.07, 37: 0.02, 49: 0.3, 51: 0.12, 46: 0.12}.get(
        note.pitch, 0.03
    )
    t = np.arange(int(5 * decay_s * RATE_HZ), dtype=np.float32) / np.float32(RATE_HZ)
    level = np.float32(0.25 * note.velocity / 127) * np.exp(-t / decay_s)
    if note.pitch in (36, 45, 50):
        return np.asarray(level * np.sin(2 * np.pi * (50 * t + 6 * (1 - np.exp(-t / 0.03)))))
    noise = rng.standard_normal(len(t), dtype=np.float32)
    # A difference is a high-pass filter: cymbals take it twice, the snare once.
    for _ in range(2 if note.pitch > 40 else 1):
        noise = np.diff(noise, prepend=np.float32(0)) * 0.5
    return np.asarray(level * noise)


def _sing(score: Score, num_samples: int, rng: np.random.Generator) -> tuple[np.ndarray, Sung]:
    if score.plan.voice is None:
        return np.zeros(num_samples, dtype=np.float32), Sung()
    lines: dict[int, list[tuple[int, SungWord]]] = {}
    for number, word in enumerate(score.words):
        lines.setdefault(word.line, []).append((number, word))
    clock = score.plan.clock
    num_frames = math.ceil(num_samples / RATE_HZ * _VOICE_RATE_HZ / _HOP) + 1
    times_T = np.arange(num_frames) * (_HOP / _VOICE_RATE_HZ)
    voice = voice_named(score.plan.voice)
    placed: list[PlacedPhoneme] = []
    f0_T = np.full(num_frames, 100.0)
    for line in lines.values():
        spoken = [_spoken(word) for _, word in line]
        phonemes = place_line(line, spoken, clock)
        inside = (times_T >= phonemes[0].start_s) & (times_T <= phonemes[-1].end_s)
        notes = [note for _, word in line for note in word.notes]
        f0_T[inside] = pitch_curve(voice, notes, clock, times_T[inside], rng)
        placed += phonemes
    tract_TF, hiss_TF = _envelopes(placed, times_T, voice.formants)
    wave = _source_filter(f0_T, tract_TF, hiss_TF, rng)
    wave = soxr.resample(wave, _VOICE_RATE_HZ, RATE_HZ, quality="MQ")[:num_samples]
    return np.pad(wave, (0, num_samples - len(wave))), Sung(tuple(placed))


def _spoken(word: SungWord) -> SpokenWord:
    lengths = [0.12 if is_vowel(p) else 0.09 if p in ("S", "SH", "M", "N") else 0.06
               for p in word.phonemes]  # fmt: skip
    return SpokenWord(word.phonemes, tuple(lengths))


def _envelopes(
    placed: list[PlacedPhoneme], times_T: np.ndarray, formants: float
) -> tuple[np.ndarray, np.ndarray]:
    """Spectra of the voiced and of the noisy sound at every frame, [frames, bins]."""
    bins_hz = np.fft.rfftfreq(_FRAME, 1.0 / _VOICE_RATE_HZ)
    tract = np.zeros((len(times_T), len(bins_hz)), dtype=np.float32)
    hiss = np.zeros_like(tract)
    for p in placed:
        left, right = np.searchsorted(times_T, [p.start_s, p.end_s])
        if p.phoneme in _NOISE:
            centre, width, level, voiced = _NOISE[p.phoneme]
            hiss[left:right] = level * np.exp(-(((bins_hz - centre) / width) ** 2))
            if voiced:
                tract[left:right] = 0.3 * _resonances((250, 1200, 2400), formants, bins_hz)
            continue
        first, last = _GLIDES.get(p.phoneme, (p.phoneme, p.phoneme))
        share = np.linspace(0.0, 1.0, max(1, right - left))[:, None] ** 2
        a = np.array(_FORMANTS_HZ[first])
        b = np.array(_FORMANTS_HZ[last])
        level = 1.0 if is_vowel(p.phoneme) else 0.5
        for t, f in zip(range(left, right), a + (b - a) * share, strict=False):
            tract[t] = level * _resonances(tuple(f), formants, bins_hz)
    return tract, hiss


def _resonances(centres_hz: tuple[float, ...], formants: float, bins_hz: np.ndarray) -> np.ndarray:
    out = np.zeros_like(bins_hz)
    for i, centre in enumerate(centres_hz):
        width = 60.0 + 40.0 * i
        out += 0.6**i / (1.0 + ((bins_hz - centre * formants) / width) ** 2)
    return out


def _source_filter(
    f0_T: np.ndarray, tract_TF: np.ndarray, hiss_TF: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Pulses through the tract and noise through the hiss, frame by frame, overlapped."""
    num = (len(f0_T) - 1) * _HOP + _FRAME
    f0_N = np.interp(np.arange(num) / _HOP, np.arange(len(f0_T)), f0_T)
    phase = np.cumsum(f0_N / _VOICE_RATE_HZ)
    pulses = np.diff(np.floor(phase), prepend=0.0).astype(np.float32)
    noise = 0.1 * rng.standard_normal(num, dtype=np.float32)
    window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)
    at = np.arange(len(f0_T))[:, None] * _HOP + np.arange(_FRAME)[None, :]
    spectrum = (
        np.fft.rfft(pulses[at] * window) * tract_TF + np.fft.rfft(noise[at] * window) * hiss_TF
    )
    frames = np.fft.irfft(spectrum, n=_FRAME).astype(np.float32)
    wave = np.zeros(num, dtype=np.float32)
    for part in range(_FRAME // _HOP):
        # Frames four apart do not overlap: they can be added in one go.
        rows = frames[part :: _FRAME // _HOP]
        flat = rows.reshape(-1)
        wave[part * _HOP : part * _HOP + len(flat)] += flat
    return wave[_FRAME // 2 :]
