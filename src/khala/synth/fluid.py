"""The few functions of libfluidsynth (LGPL-2.1) that the band needs, through ctypes."""

from __future__ import annotations

import ctypes
import ctypes.util
from pathlib import Path
from typing import Any

import numpy as np

from khala.errors import CorpusError
from khala.synth.espeak import INSTALL_COMMAND

BLOCK = 64
"""FluidSynth starts and ends notes only at multiples of this many samples."""

_P, _I, _S, _D = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_double
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "new_fluid_settings": (_P, []),
    "delete_fluid_settings": (None, [_P]),
    "fluid_settings_setnum": (_I, [_P, _S, _D]),
    "fluid_settings_setint": (_I, [_P, _S, _I]),
    "fluid_set_log_function": (_P, [_I, _P, _P]),
    "new_fluid_synth": (_P, [_P]),
    "delete_fluid_synth": (None, [_P]),
    "fluid_synth_sfload": (_I, [_P, _S, _I]),
    "fluid_synth_get_sfont_by_id": (_P, [_P, _I]),
    "fluid_synth_add_sfont": (_I, [_P, _P]),
    "fluid_synth_remove_sfont": (_I, [_P, _P]),
    "fluid_synth_program_select": (_I, [_P, _I, _I, _I, _I]),
    "fluid_synth_cc": (_I, [_P, _I, _I, _I]),
    "fluid_synth_noteon": (_I, [_P, _I, _I, _I]),
    "fluid_synth_noteoff": (_I, [_P, _I, _I]),
    "fluid_synth_write_float": (_I, [_P, _I, _P, _I, _I, _P, _I, _I]),
}
_QUIET_LEVELS = (2, 3, 4)


def load_fluidsynth() -> Any:
    """The C library; ``CorpusError`` naming the install command when it is missing."""
    name = ctypes.util.find_library("fluidsynth") or "libfluidsynth.so.3"
    try:
        library: Any = ctypes.CDLL(name)
    except OSError as error:
        raise CorpusError(
            f"libfluidsynth is missing; install it with: {INSTALL_COMMAND}"
        ) from error
    for function, (result, arguments) in _SIGNATURES.items():
        bound = getattr(library, function)
        bound.restype, bound.argtypes = result, arguments
    return library


class SoundFont:
    """A loaded SoundFont. Raises ``CorpusError`` when the library or the file cannot be used."""

    def __init__(self, path: Path, *, sample_rate_hz: int, gain: float) -> None:
        self._lib = lib = load_fluidsynth()
        for level in _QUIET_LEVELS:
            # It warns of channels without a program, which is every channel of a new player.
            lib.fluid_set_log_function(level, None, None)
        self._settings = lib.new_fluid_settings()
        lib.fluid_settings_setnum(self._settings, b"synth.gain", gain)
        lib.fluid_settings_setnum(self._settings, b"synth.sample-rate", float(sample_rate_hz))
        lib.fluid_settings_setint(self._settings, b"synth.reverb.active", 0)
        lib.fluid_settings_setint(self._settings, b"synth.chorus.active", 0)
        lib.fluid_settings_setint(self._settings, b"synth.polyphony", 160)
        # The owner keeps the samples in memory; players borrow them.
        self._owner = lib.new_fluid_synth(self._settings)
        number = lib.fluid_synth_sfload(self._owner, str(path).encode(), 0)
        if number < 0:
            raise CorpusError(f"{path} is not a SoundFont that FluidSynth reads")
        self._font = lib.fluid_synth_get_sfont_by_id(self._owner, number)

    def player(self) -> Player:
        """A fresh player: nothing of an earlier song is left in it."""
        return Player(self._lib, self._settings, self._font)


class Player:
    """A synthesiser for one song; close it when done."""

    def __init__(self, lib: Any, settings: int, font: int) -> None:
        self._lib, self._borrowed = lib, font
        self._synth = lib.new_fluid_synth(settings)
        self._font = lib.fluid_synth_add_sfont(self._synth, font)

    def program(self, channel: int, bank: int, program: int) -> bool:
        """Choose an instrument; False when the SoundFont lacks it."""
        select = self._lib.fluid_synth_program_select
        return bool(select(self._synth, channel, self._font, bank, program) == 0)

    def control(self, channel: int, controller: int, value: int) -> None:
        """Send a MIDI controller."""
        self._lib.fluid_synth_cc(self._synth, channel, controller, value)

    def note_on(self, channel: int, pitch: int, velocity: int) -> None:
        """Start a note."""
        self._lib.fluid_synth_noteon(self._synth, channel, pitch, velocity)

    def note_off(self, channel: int, pitch: int) -> None:
        """Release a note; a drum that has rung out already is not an error."""
        self._lib.fluid_synth_noteoff(self._synth, channel, pitch)

    def write(self, wave_NC: np.ndarray, first: int, last: int) -> None:
        """Render samples ``[first, last)`` into an interleaved stereo float32 array."""
        if last <= first:
            return
        address = wave_NC.ctypes.data + first * 8
        self._lib.fluid_synth_write_float(self._synth, last - first, address, 0, 2, address, 1, 2)

    def close(self) -> None:
        """Give the synthesiser back, the samples stay with their owner."""
        self._lib.fluid_synth_remove_sfont(self._synth, self._borrowed)
        self._lib.delete_fluid_synth(self._synth)
