"""What a composed song is before any sound: plan, notes, words, chords, all in beats.

A beat is a quarter note. ``Clock`` turns beats into seconds, swing included.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

VOCALS = "vocals"
DRUMS = "drums"


def stream(seed: int, index: int, purpose: str) -> random.Random:
    """The random numbers of one purpose in one song; equal on every machine and Python."""
    return random.Random(f"khala-synth/{seed}/{index}/{purpose}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A note of the band or the singer."""

    part: str
    pitch: int
    start: float
    end: float
    velocity: int = 90


@dataclass(frozen=True, kw_only=True, slots=True)
class Chord:
    """A chord: root pitch class, quality, and its span in beats."""

    root: int
    quality: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SungWord:
    """A word with its phonemes and one note for each of its syllables."""

    word: str
    phonemes: tuple[str, ...]
    line: int
    notes: tuple[Note, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the form; ``kind`` is intro, verse, chorus, bridge, solo or outro."""

    name: str
    kind: str
    start_bar: int
    num_bars: int
    num_lines: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """Beats to seconds."""

    bpm: float
    swing: float = 0.5
    """Where the second half of a beat falls: 0.5 straight, 0.66 triplet swing."""

    lead_s: float = 0.2
    """Silence before the first beat, room for the consonants before it."""

    def seconds(self, beat: float) -> float:
        """Time of ``beat``, which may be fractional."""
        whole = int(beat // 1)
        part = beat - whole
        if part < 0.5:
            part = part * self.swing / 0.5
        else:
            part = self.swing + (part - 0.5) * (1.0 - self.swing) / 0.5
        return self.lead_s + (whole + part) * 60.0 / self.bpm


@dataclass(frozen=True, kw_only=True, slots=True)
class SongPlan:
    """Everything decided before the first note; cheap to make, fixes the duration."""

    index: int
    seed: int
    split: str
    style: str
    mood: str
    bpm: int
    swing: float
    beats_per_bar: int
    tonic: int
    minor: bool
    voice: str | None
    lead: str | None
    """Instrument that carries the melody of an instrumental."""

    instruments: tuple[str, ...]
    sections: tuple[Section, ...]
    line_bars: int
    tail_s: float
    lead_s: float = 0.2

    @property
    def clock(self) -> Clock:
        """The song's clock."""
        return Clock(bpm=self.bpm, swing=self.swing, lead_s=self.lead_s)

    @property
    def num_bars(self) -> int:
        """Bars of the whole form."""
        return sum(section.num_bars for section in self.sections)

    @property
    def duration_s(self) -> float:
        """Length of the song, the ringing of the last chord included."""
        return self.clock.seconds(self.num_bars * self.beats_per_bar) + self.tail_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A composed song."""

    plan: SongPlan
    chords: tuple[Chord, ...]
    band: tuple[Note, ...]
    words: tuple[SungWord, ...]
    lyrics: str
    programs: dict[str, int] = field(default_factory=dict)
    """General MIDI program of each part of the band, drums left out."""
