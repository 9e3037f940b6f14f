"""Spoken words from espeak-ng, with the moment at which every phoneme begins.

Only the voice bank calls this, in a process of its own: the library keeps its state in globals
and is used through its documented C interface (speak_lib.h).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from khala.errors import CorpusError
from khala.synth.phonemes import SILENCE, from_espeak

INSTALL_COMMAND = (
    "sudo apt-get install espeak-ng libfluidsynth3 musescore-general-soundfont-small"
    " && pip install 'khala[synth]'"
)

_AUDIO_SYNCHRONOUS = 2
_PHONEME_EVENTS = 1
_EVENT_END, _EVENT_PHONEME = 0, 7
_RATE, _PITCH, _RANGE = 1, 3, 4
_CHARS_UTF8, _PHONEMES_IN_BRACKETS = 1, 0x100


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_void_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One spoken word."""

    samples_N: np.ndarray
    """float32 in [-1, 1], mono."""

    sample_rate_hz: int
    """Rate of ``samples_N``; 22,050 for espeak-ng's own voices."""

    phones: tuple[tuple[str, float, float], ...]
    """(phoneme, start, end) in seconds, silence at the edges left out."""


def _library() -> tuple[Any, str | None]:
    """The C library and the folder of its data (None: the built-in one)."""
    name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
    try:
        return ctypes.CDLL(name), None
    except OSError:
        pass
    try:
        loader = importlib.import_module("espeakng_loader")
        return ctypes.CDLL(str(loader.get_library_path())), str(loader.get_data_path())
    except (ImportError, OSError) as error:
        raise CorpusError(f"libespeak-ng is missing; install it with: {INSTALL_COMMAND}") from error


class Espeak:
    """A speaking voice.

    Raises ``CorpusError`` when the library or the voice is missing; at most one instance in a
    process, because the library has one voice at a time.
    """

    def __init__(self, voice: str, *, words_per_minute: int, pitch: int) -> None:
        self._lib, data = _library()
        path = None if data is None else str(Path(data)).encode()
        rate = int(self._lib.espeak_Initialize(_AUDIO_SYNCHRONOUS, 500, path, _PHONEME_EVENTS))
        if rate <= 0:
            raise CorpusError(
                "espeak-ng could not start: is its data folder (espeak-ng-data) installed?"
            )
        self.sample_rate_hz = rate
        self._chunks: list[np.ndarray] = []
        self._marks: list[tuple[int, str]] = []
        # ctypes keeps no reference to a callback: losing it here would crash the process.
        self._callback = _Callback(self._receive)
        self._lib.espeak_SetSynthCallback(self._callback)
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise CorpusError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((_RATE, words_per_minute), (_PITCH, pitch), (_RANGE, 0)):
            self._lib.espeak_SetParameter(parameter, value, 0)

    def _receive(self, wave: Any, count: int, events: Any) -> int:
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        i = 0
        while events[i].type != _EVENT_END:
            if events[i].type == _EVENT_PHONEME:
                name = events[i].id.string.decode("ascii", "replace")
                self._marks.append((int(events[i].sample), name))
            i += 1
        return 0

    def speak(self, text: str) -> Utterance:
        """Say ``text`` on one pitch. Raises ``CorpusError`` when nothing came out."""
        self._chunks.clear()
        self._marks.clear()
        data = text.encode()
        flags = _CHARS_UTF8 | _PHONEMES_IN_BRACKETS
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, flags, None, None)
        if not self._chunks or not self._marks:
            raise CorpusError(f"espeak-ng said nothing for {text!r}")
        samples = np.concatenate(self._chunks).astype(np.float32) / 32768.0
        return Utterance(
            samples_N=samples,
            sample_rate_hz=self.sample_rate_hz,
            phones=_phones(self._marks, len(samples), self.sample_rate_hz),
        )


def _phones(
    marks: list[tuple[int, str]], num_samples: int, sample_rate_hz: int
) -> tuple[tuple[str, float, float], ...]:
    """Phoneme spans in seconds from espeak's marks."""
    phones: list[tuple[str, float, float]] = []
    ends = [start for start, _ in marks[1:]] + [num_samples]
    for (start, name), end in zip(marks, ends, strict=True):
        mapped = from_espeak(name)
        start_s, end_s = start / sample_rate_hz, end / sample_rate_hz
        if mapped is None:
            if phones:
                phones[-1] = (phones[-1][0], phones[-1][1], end_s)
            continue
        if end_s <= start_s and mapped[0][0] != SILENCE and phones:
            # espeak gives a dark l no time of its own: it lies in the end of its vowel.
            before, before_s, start_s = phones[-1]
            end_s, start_s = start_s, before_s + 0.65 * (start_s - before_s)
            phones[-1] = (before, before_s, start_s)
        length_s = end_s - start_s
        for phoneme, share in mapped:
            if phoneme != SILENCE and length_s > 0:
                phones.append((phoneme, start_s, start_s + length_s * share))
            start_s += length_s * share
    return tuple(phones)
