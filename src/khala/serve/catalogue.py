"""Style tags to choose from, in groups; the bundled model was trained with every one of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["TAGS"]

TAGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "style": (
            "pop", "rock", "ballad", "folk", "country", "jazz", "r&b", "reggae", "dance",
            "synthwave", "lo-fi", "waltz",
        ),
        "voice": ("female vocal", "male vocal", "instrumental"),
        "instrument": (
            "piano", "electric piano", "organ", "acoustic guitar", "clean guitar", "nylon guitar",
            "muted guitar", "overdriven guitar", "distorted guitar", "bass", "synth bass", "drums",
            "strings", "synth strings", "synth pad", "synth lead", "square lead", "vibraphone",
            "accordion", "banjo", "harp", "violin", "saxophone", "trumpet", "flute",
        ),
        "mood": (
            "happy", "bright", "sunny", "hopeful", "energetic", "euphoric", "driving", "playful",
            "warm", "smooth", "romantic", "tender", "gentle", "calm", "relaxed", "dreamy", "sleepy",
            "nostalgic", "elegant", "sultry", "sad", "dark", "rebellious",
        ),
        "tempo": (
            "70 bpm", "80 bpm", "90 bpm", "100 bpm", "110 bpm", "120 bpm", "130 bpm", "140 bpm",
        ),
        "metre": ("4/4", "3/4"),
        "key": (
            "C major", "D major", "Eb major", "E major", "F major", "G major", "A major",
            "Bb major", "C minor", "D minor", "E minor", "F minor", "G minor", "A minor", "B minor",
        ),
    }
)  # fmt: skip
