"""The singers: which spoken voice each comes from and how it is bent into another person."""

from __future__ import annotations

from dataclasses import dataclass

from khala.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """A singer."""

    name: str
    gender: str
    """female or male."""

    character: str
    """One word for descriptions."""

    base: str
    """espeak-ng voice with its variant."""

    speech_pitch: int
    """espeak-ng's pitch setting while speaking."""

    centre: int
    """MIDI pitch in the middle of the comfortable range."""

    formants: float = 1.0
    """Factor on all formant frequencies."""

    tilt_db_per_octave: float = 0.0
    """Brightness: added to the spectrum above 500 Hz."""

    breath: float = 0.0
    """0 to 1: share of noise mixed into the voiced sound."""

    vibrato_cents: float = 25.0
    vibrato_hz: float = 5.4
    held_out: bool = False
    """Sings only in the test_voice split."""


VOICES: tuple[Voice, ...] = (
    Voice(name="ada", gender="female", character="clear", base="en-us+f2", speech_pitch=55,
          centre=66, formants=1.02),
    Voice(name="bea", gender="female", character="breathy", base="en-us+f4", speech_pitch=60,
          centre=65, formants=1.08, tilt_db_per_octave=-1.0, breath=0.25, vibrato_cents=18.0),
    Voice(name="cleo", gender="female", character="warm", base="en-us+f5", speech_pitch=50,
          centre=63, formants=0.95, tilt_db_per_octave=-1.0, vibrato_cents=32.0, vibrato_hz=5.1),
    Voice(name="dan", gender="male", character="warm", base="en-us+m3", speech_pitch=60,
          centre=55, formants=1.0),
    Voice(name="eli", gender="male", character="bright", base="en-us+m1", speech_pitch=65,
          centre=58, formants=1.07, tilt_db_per_octave=1.0, vibrato_cents=20.0, vibrato_hz=5.8),
    Voice(name="fox", gender="male", character="deep", base="en-us+m7", speech_pitch=50,
          centre=52, formants=0.93, vibrato_cents=22.0, vibrato_hz=4.9),
    Voice(name="gia", gender="female", character="silvery", base="en-us+f3", speech_pitch=60,
          centre=66, formants=1.05, tilt_db_per_octave=1.0, held_out=True),
)  # fmt: skip


def voice_named(name: str) -> Voice:
    """The singer called ``name``; ``ConfigError`` when there is none."""
    for voice in VOICES:
        if voice.name == name:
            return voice
    raise ConfigError(f"no voice {name!r}; there are: {', '.join(v.name for v in VOICES)}")
