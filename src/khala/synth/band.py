"""The band: FluidSynth with a General MIDI SoundFont, in this process, plus air for cymbals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfilt

from khala.errors import CorpusError
from khala.synth.espeak import INSTALL_COMMAND
from khala.synth.fluid import BLOCK, Player, SoundFont, load_fluidsynth
from khala.synth.score import DRUMS, Clock, Note, Score
from khala.synth.styles import INSTRUMENTS

RATE_HZ = 44100
SOUNDFONTS = (
    Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3"),
    Path("/usr/share/sounds/sf3/MuseScore_General.sf3"),
    Path("/usr/share/sounds/sf3/default-GM.sf3"),
    Path("/usr/share/sounds/sf2/default-GM.sf2"),
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
)
_DRUM_CHANNEL = 9
_KITS = {"rock": 16, "dance": 24, "synthwave": 24, "jazz": 32, "waltz": 32, "lo-fi": 8, "r&b": 8}
_AIR: dict[int, tuple[float, float]] = {
    42: (0.035, 0.5), 46: (0.25, 0.6), 49: (0.9, 1.0), 51: (0.25, 0.5), 38: (0.07, 0.35),
    40: (0.07, 0.35),
}  # fmt: skip
"""Drum note -> decay in seconds and level of the noise that is added above 7 kHz."""


def find_soundfont(given: Path | None) -> Path:
    """The SoundFont to use; ``CorpusError`` naming the install command when there is none."""
    for path in SOUNDFONTS if given is None else (given,):
        if path.is_file():
            return path
    where = str(given) if given is not None else "/usr/share/sounds"
    raise CorpusError(f"no SoundFont at {where}; install one with: {INSTALL_COMMAND}")


def check_band(soundfont: Path | None) -> None:
    """Raise ``CorpusError`` naming the install command when the band could not play."""
    find_soundfont(soundfont)
    load_fluidsynth()


class Band:
    """The SoundFont of one process; every song gets a fresh player on it."""

    def __init__(self, soundfont: Path) -> None:
        self._font = SoundFont(soundfont, sample_rate_hz=RATE_HZ, gain=0.35)

    def render(self, score: Score, num_samples: int, seed: int) -> np.ndarray:
        """The band's stereo sound, float32 [2, num_samples]."""
        player = self._font.player()
        try:
            wave_CN = _play(player, score, num_samples)
        finally:
            player.close()
        if DRUMS in score.plan.instruments:
            wave_CN += _air(score.band, score.plan.clock, num_samples, seed)
        return wave_CN


def _play(player: Player, score: Score, num_samples: int) -> np.ndarray:
    channels = _seat(player, score)
    clock = score.plan.clock
    events: list[tuple[int, int, int, int, int]] = []
    for note in score.band:
        channel = channels[note.part]
        start = int(clock.seconds(note.start) * RATE_HZ) // BLOCK * BLOCK
        end = int(clock.seconds(note.end) * RATE_HZ) // BLOCK * BLOCK
        events.append((start, 1, channel, note.pitch, note.velocity))
        events.append((max(start + BLOCK, end), 0, channel, note.pitch, 0))
    # Releases come before attacks of the same instant, or a repeated note would be cut off.
    events.sort()
    length = -(-num_samples // BLOCK) * BLOCK
    wave_NC = np.zeros((length, 2), dtype=np.float32)
    at = 0
    for moment, on, channel, pitch, velocity in events:
        if moment >= length:
            break
        player.write(wave_NC, at, moment)
        at = moment
        if on:
            player.note_on(channel, pitch, velocity)
        else:
            player.note_off(channel, pitch)
    player.write(wave_NC, at, length)
    return np.ascontiguousarray(wave_NC.T[:, :num_samples])


def _seat(player: Player, score: Score) -> dict[str, int]:
    """Give each part its channel, instrument, volume and place; returns the channels."""
    channels: dict[str, int] = {}
    free = [c for c in range(16) if c != _DRUM_CHANNEL]
    for part in score.plan.instruments:
        if part == DRUMS:
            channels[part] = _DRUM_CHANNEL
            if not player.program(_DRUM_CHANNEL, 128, _KITS.get(score.plan.style, 0)):
                player.program(_DRUM_CHANNEL, 128, 0)
            player.control(_DRUM_CHANNEL, 7, 104)
            continue
        channel = channels[part] = free.pop(0)
        program, place, gain_db = INSTRUMENTS[part]
        if not player.program(channel, 0, program):
            raise CorpusError(f"the SoundFont has no {part} (General MIDI program {program})")
        # General MIDI's volume is a square law; 90 leaves room above.
        player.control(channel, 7, round(min(127.0, 90.0 * 10.0 ** (gain_db / 40.0))))
        player.control(channel, 10, round(min(127.0, max(0.0, 64 + 64 * place))))
    return channels


def _air(notes: tuple[Note, ...], clock: Clock, num_samples: int, seed: int) -> np.ndarray:
    """Bursts of high noise on the cymbals and the snare: small SoundFonts are dull up there."""
    rng = np.random.Generator(np.random.PCG64(seed))
    envelope = np.zeros(num_samples, dtype=np.float32)
    for note in notes:
        if note.part != DRUMS or note.pitch not in _AIR:
            continue
        decay_s, level = _AIR[note.pitch]
        start = int(clock.seconds(note.start) * RATE_HZ)
        length = min(num_samples - start, int(5 * decay_s * RATE_HZ))
        if length > 0:
            shape = np.exp(-np.arange(length, dtype=np.float32) / (decay_s * RATE_HZ))
            envelope[start : start + length] += level * (note.velocity / 127.0) ** 2 * shape
    noise = rng.standard_normal((2, num_samples), dtype=np.float32)
    # Mostly the same in both ears: the air must survive a mono speaker.
    noise = noise * 0.5 + noise[:1] * math.sqrt(0.75) * np.array([[0.5], [1.0]], dtype=np.float32)
    high = butter(2, 7000.0, "highpass", fs=RATE_HZ, output="sos").astype(np.float32)
    return np.asarray(0.012 * sosfilt(high, noise * envelope), dtype=np.float32)
