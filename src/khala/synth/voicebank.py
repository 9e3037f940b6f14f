"""The voice bank: every word of a voice, spoken once, analysed by WORLD, stored in a few MB.

A bank holds no sound but what it takes to make it at any pitch and length: for every 5 ms the
spectral envelope as mel-spaced cepstral coefficients, the noise share in a few bands, and
whether the voice sounds; and where each phoneme begins. With the banks at hand a corpus can be
written on a computer that has no espeak-ng.

WORLD: Morise, Yokomori and Ozawa, IEICE Trans. E99-D (2016). The envelope is coded by a cosine
transform of the log spectrum at mel-spaced points, each coefficient in equal steps.
"""

from __future__ import annotations

import importlib
import json
import lzma
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from khala.errors import CorpusError
from khala.synth.espeak import INSTALL_COMMAND, Espeak
from khala.synth.lexicon import load_lexicon
from khala.synth.phonemes import UNVOICED, is_vowel

FRAME_S = 0.005
SAMPLE_RATE_HZ = 22050
FFT_SIZE = 1024
NUM_COEFFICIENTS = 44
NUM_MEL = 72
NUM_BANDS = 2
BANK_FORMAT = 1

_LEVEL_STEP, _SHAPE_STEP, _BAND_STEP_DB = 0.8, 0.35, 1.0
_WORDS_PER_MINUTE = 150
# What espeak says for these alone is not what a singer sings.
_SPELLINGS = {"a": "[[@]]", "the": "[[D@2]]", "an": "[[an]]"}


@dataclass(frozen=True, slots=True)
class Unit:
    """One word of a bank, decoded."""

    phonemes: tuple[str, ...]
    bounds_F: np.ndarray
    """int32: first frame of each phoneme, then the end of the last."""

    cepstra_TC: np.ndarray
    """float32 [frames, NUM_COEFFICIENTS], natural log amplitude squared."""

    bands_TB: np.ndarray
    """float32 [frames, NUM_BANDS], aperiodicity in dB."""

    voiced_T: np.ndarray
    """bool."""


def mel_points_hz() -> np.ndarray:
    """The frequencies at which the envelope is coded."""
    top = 2595.0 * np.log10(1.0 + SAMPLE_RATE_HZ / 2 / 700.0)
    mel = np.linspace(0.0, top, NUM_MEL)
    return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))


def cosine_basis() -> np.ndarray:
    """Orthonormal DCT-II rows [NUM_COEFFICIENTS, NUM_MEL]."""
    k = np.arange(NUM_COEFFICIENTS)[:, None]
    n = np.arange(NUM_MEL)[None, :] + 0.5
    basis = np.cos(np.pi * k * n / NUM_MEL) * np.sqrt(2.0 / NUM_MEL)
    basis[0] /= np.sqrt(2.0)
    return np.asarray(basis)


def _steps() -> np.ndarray:
    steps = np.full(NUM_COEFFICIENTS, _SHAPE_STEP)
    steps[0] = _LEVEL_STEP
    return steps


class VoiceBank:
    """A bank file in memory. Raises ``CorpusError`` when the file is not a whole bank."""

    def __init__(self, path: Path) -> None:
        try:
            with safe_open(path, framework="numpy") as file:
                meta = json.loads(file.metadata()["khala-voicebank"])
                payload = file.get_tensor("payload")
            index, table = _unpack(meta, payload)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, lzma.LZMAError) as error:
            raise CorpusError(f"{path} is not a voice bank: {error}") from error
        self.base = str(meta["base"])
        self._index: dict[str, Any] = index
        self._table_FC = table
        self._mean_C = np.asarray(meta["mean"], dtype=np.float32)

    def __contains__(self, word: str) -> bool:
        return word in self._index

    def unit(self, word: str) -> Unit:
        """The decoded frames of ``word``; ``CorpusError`` when the bank does not have it."""
        if word not in self._index:
            raise CorpusError(f"the bank of {self.base} has no word {word!r}")
        first, phonemes, bounds = self._index[word]
        rows = self._table_FC[first : first + bounds[-1]]
        codes = rows[:, :NUM_COEFFICIENTS].astype(np.float32)
        bands = rows[:, NUM_COEFFICIENTS : NUM_COEFFICIENTS + NUM_BANDS].astype(np.float32)
        return Unit(
            phonemes=tuple(phonemes),
            bounds_F=np.asarray(bounds, dtype=np.int32),
            cepstra_TC=codes * _steps().astype(np.float32) + self._mean_C,
            bands_TB=bands * _BAND_STEP_DB,
            voiced_T=rows[:, -1] > 0,
        )


def _unpack(meta: dict[str, Any], payload: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    if meta["format"] != BANK_FORMAT:
        raise ValueError(f"format {meta['format']}, this program reads {BANK_FORMAT}")
    raw = lzma.decompress(payload.tobytes())
    table = np.frombuffer(raw[: meta["table_bytes"]], dtype=np.int8)
    table = table.reshape(NUM_COEFFICIENTS + NUM_BANDS + 1, -1)
    # Stored as differences along time: small numbers pack well. int8 wraps both ways alike.
    table = np.cumsum(table, axis=1, dtype=np.int8).T
    return json.loads(raw[meta["table_bytes"] :]), np.ascontiguousarray(table)


def build_bank(
    base: str,
    speech_pitch: int,
    path: Path,
    *,
    words: tuple[str, ...] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Speak and analyse ``words`` (default: the lexicon) with espeak-ng's voice ``base``.

    The file appears whole or not at all. Raises ``CorpusError`` when espeak-ng or WORLD is
    missing, or when this espeak-ng gives a word other syllables than the lexicon.
    """
    speaker = Espeak(base, words_per_minute=_WORDS_PER_MINUTE, pitch=speech_pitch)
    if speaker.sample_rate_hz != SAMPLE_RATE_HZ:
        raise CorpusError(f"{base} speaks at {speaker.sample_rate_hz} Hz, not {SAMPLE_RATE_HZ}")
    lexicon = load_lexicon().words
    chosen = sorted(lexicon if words is None else words)
    units: dict[str, Unit] = {}
    for i, text in enumerate(chosen):
        unit = _analyse(speaker, _SPELLINGS.get(text, text))
        if sum(map(is_vowel, unit.phonemes)) != lexicon[text].num_syllables:
            raise CorpusError(f"espeak-ng says {text!r} as {' '.join(unit.phonemes)}")
        units[text] = unit
        if on_progress is not None:
            on_progress(i + 1, len(chosen))
    _save(base, units, path)


def check_world() -> Any:
    """The pyworld module; ``CorpusError`` naming the install command when it is missing."""
    try:
        return importlib.import_module("pyworld")
    except ImportError as error:
        raise CorpusError(f"pyworld is missing; install it with: {INSTALL_COMMAND}") from error


def _analyse(speaker: Espeak, text: str) -> Unit:
    pyworld = check_world()
    spoken = speaker.speak(text)
    wave = spoken.samples_N.astype(np.float64)
    rate = spoken.sample_rate_hz
    # A whisper of noise keeps digital silence out of the logarithms.
    wave += np.random.Generator(np.random.PCG64(7)).normal(0.0, 1e-5, len(wave))
    coarse, times = pyworld.dio(
        wave, rate, f0_floor=60.0, f0_ceil=500.0, frame_period=1e3 * FRAME_S
    )
    f0 = pyworld.stonemask(wave, coarse, times, rate)
    power_TF = pyworld.cheaptrick(wave, f0, times, rate, fft_size=FFT_SIZE)
    aperiodic_TF = pyworld.d4c(wave, f0, times, rate, fft_size=FFT_SIZE)
    bands = pyworld.code_aperiodicity(aperiodic_TF, rate)
    bins_hz = np.arange(FFT_SIZE // 2 + 1) * rate / FFT_SIZE
    log_TM = _at(np.log(power_TF), bins_hz, mel_points_hz())
    start = max(0, round(spoken.phones[0][1] / FRAME_S))
    edges = [round(p[1] / FRAME_S) - start for p in spoken.phones]
    edges.append(min(len(f0), round(spoken.phones[-1][2] / FRAME_S)) - start)
    voiced = f0 > 0
    for (name, _, _), left, right in zip(spoken.phones, edges, edges[1:], strict=False):
        if name in UNVOICED:
            voiced[start + left + 2 : start + right - 1] = False
    stop = start + edges[-1]
    return Unit(
        phonemes=tuple(p[0] for p in spoken.phones),
        bounds_F=np.asarray(edges, dtype=np.int32),
        cepstra_TC=(log_TM @ cosine_basis().T)[start:stop],
        bands_TB=bands[start:stop],
        voiced_T=voiced[start:stop],
    )


def _at(values_TF: np.ndarray, at_hz: np.ndarray, points_hz: np.ndarray) -> np.ndarray:
    """Linear interpolation along the last axis."""
    position = np.interp(points_hz, at_hz, np.arange(len(at_hz)))
    low = np.minimum(position.astype(int), len(at_hz) - 2)
    part = position - low
    return np.asarray(values_TF[:, low] * (1.0 - part) + values_TF[:, low + 1] * part)


def _save(base: str, units: dict[str, Unit], path: Path) -> None:
    every_FC = np.concatenate([u.cepstra_TC for u in units.values()])
    mean = every_FC.mean(axis=0).astype(np.float32)
    codes = np.round((every_FC - mean) / _steps())
    bands = np.round(np.concatenate([u.bands_TB for u in units.values()]) / _BAND_STEP_DB)
    voiced = np.concatenate([u.voiced_T for u in units.values()])
    table = np.concatenate([codes, bands, voiced[:, None]], axis=1)
    # Near-silent frames fall far below the rest: their level may end at the lowest step.
    table = np.clip(table, -127, 127).astype(np.int8).T
    deltas = np.diff(table, axis=1, prepend=np.int8(0))
    index, first = {}, 0
    for text, unit in units.items():
        index[text] = [first, list(unit.phonemes), unit.bounds_F.tolist()]
        first += int(unit.bounds_F[-1])
    raw_table = np.ascontiguousarray(deltas).tobytes()
    raw = raw_table + json.dumps(index, separators=(",", ":")).encode()
    meta = {"format": BANK_FORMAT, "base": base, "mean": [float(m) for m in mean],
            "table_bytes": len(raw_table)}  # fmt: skip
    payload = np.frombuffer(lzma.compress(raw, preset=6), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({"payload": payload}, temporary, {"khala-voicebank": json.dumps(meta)})
    temporary.chmod(0o644)
    temporary.replace(path)
