"""The pitch a singer sings: notes, the glides between them, vibrato and small drift."""

from __future__ import annotations

import numpy as np

from khala.synth.score import Clock, Note
from khala.synth.voices import Voice


def pitch_curve(
    voice: Voice, notes: list[Note], clock: Clock, times_T: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The sung pitch in Hz at ``times_T`` (5 ms apart) for the notes of one line."""
    starts = np.array([clock.seconds(n.start) for n in notes])
    ends = np.array([clock.seconds(n.end) for n in notes])
    pitches = np.array([float(n.pitch) for n in notes])
    # A singer arrives at the new pitch as the vowel begins, so the glide starts before.
    which = np.clip(np.searchsorted(starts - 0.035, times_T, side="right") - 1, 0, len(notes) - 1)
    semitones = pitches[which]
    since = times_T - starts[which]
    first = times_T < starts[0] + 0.15
    scoop = -0.6 * np.exp(-np.maximum(times_T - starts[0], 0.0) / 0.05)
    semitones = semitones + np.where(first, scoop, 0.0)
    kernel = np.hanning(13)[1:-1]
    padded = np.pad(semitones, 5, mode="edge")
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    length = ends[which] - starts[which]
    depth = np.clip((since - 0.22) / 0.25, 0.0, 1.0) * (length > 0.42)
    phase = 2 * np.pi * (voice.vibrato_hz * since + rng.random())
    vibrato = depth * voice.vibrato_cents / 100.0 * np.sin(phase)
    drift = rng.normal(0.0, 1.0, len(times_T) // 20 + 3)
    wander = 0.05 * np.interp(np.arange(len(times_T)), np.arange(len(drift)) * 20.0, drift)
    return np.asarray(440.0 * 2.0 ** ((smooth + vibrato + wander - 69.0) / 12.0))
