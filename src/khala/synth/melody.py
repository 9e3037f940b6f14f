"""Melodies: one rhythm and contour for each kind of line, fitted to syllables and chords.

A *motif* is the opening of a line: the intervals between its first five notes. One motif in
eight, by a hash, is held out: it occurs in songs of the test_words split and in no other.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from itertools import pairwise

from khala.errors import CorpusError
from khala.synth.harmony import QUALITIES, chord_at, scale_of
from khala.synth.score import Chord, Section, SongPlan, stream
from khala.synth.voices import voice_named

MOTIF_NOTES = 5
MIN_NOTE_S = 0.25
_HELD_OUT_IN = 8
_MAX_NOTE_S = 1.5


@dataclass(frozen=True, slots=True)
class LineNote:
    """A note of a line: start and length in beats from the line's first beat, MIDI pitch."""

    start: float
    length: float
    pitch: int


def motif_of(pitches: list[int]) -> tuple[int, ...]:
    """The motif that a line opens with."""
    head = pitches[:MOTIF_NOTES]
    return tuple(b - a for a, b in pairwise(head))


def is_held_out(motif: tuple[int, ...]) -> bool:
    """Whether a motif belongs to the test_words split."""
    digest = hashlib.blake2s(f"khala test motif {motif}".encode()).digest()
    return digest[0] % _HELD_OUT_IN == 0


def grid_step(plan: SongPlan) -> float:
    """The shortest note value in beats that can still be sung clearly."""
    short_s = (1.0 - plan.swing) * 60.0 / plan.bpm
    return 0.5 if short_s >= MIN_NOTE_S else 1.0


def line_slots(plan: SongPlan) -> int:
    """Grid steps of a line that may hold notes; the rest is for breathing."""
    beat_s = 60.0 / plan.bpm
    step = grid_step(plan)
    rest = max(step, 0.4 / beat_s)
    return int((plan.line_bars * plan.beats_per_bar - rest) / step + 1e-6)


def syllable_counts(plan: SongPlan) -> dict[str, tuple[int, int]]:
    """Syllables of odd and even lines for each kind of section."""
    rng = stream(plan.seed, plan.index, "syllables")
    line_s = plan.line_bars * plan.beats_per_bar * 60.0 / plan.bpm
    most = min(9, line_slots(plan))
    out: dict[str, tuple[int, int]] = {}
    for kind in ("verse", "chorus", "bridge"):
        centre = line_s * rng.uniform(1.2, 1.65)
        odd = max(MOTIF_NOTES, min(most, round(centre)))
        even = max(MOTIF_NOTES, min(most, odd + rng.choice((-1, 0, 0, 1))))
        out[kind] = (odd, even)
    return out


def _rhythm(plan: SongPlan, num_notes: int, rng: random.Random) -> list[tuple[float, float]]:
    """Starts and lengths in beats of ``num_notes`` notes."""
    step, slots = grid_step(plan), line_slots(plan)
    longest = max(1, int(_MAX_NOTE_S * plan.bpm / 60.0 / step))
    if num_notes > slots:
        raise CorpusError(f"{num_notes} syllables do not fit a line of {slots} steps")
    offset = rng.choice((0, 0, 0, 1, 2)) if slots - num_notes >= 4 else 0
    lengths = [1] * num_notes
    extra = round((slots - offset - num_notes) * rng.uniform(0.75, 1.0))
    weights = [rng.choice((1.0, 1.0, 2.5)) for _ in range(num_notes)]
    weights[-1] = 4.0
    for _ in range(extra):
        open_ = [w if n < longest else 0.0 for w, n in zip(weights, lengths, strict=True)]
        if sum(open_) == 0:
            break
        lengths[rng.choices(range(num_notes), open_)[0]] += 1
    starts: list[tuple[float, float]] = []
    at = offset
    for length in lengths:
        starts.append((at * step, length * step))
        at += length
    return starts


def _pitches(
    plan: SongPlan, rhythm: list[tuple[float, float]], chords: tuple[Chord, ...], first_beat: float,
    centre: int, rng: random.Random, home: bool,
) -> list[int]:  # fmt: skip
    """A contour through chord tones on the beats and steps between them."""
    scale = {(plan.tonic + s) % 12 for s in scale_of(plan)}
    low, high = centre - 8, centre + 8
    pitch = centre + rng.randint(-4, 4)
    drift = rng.choice((-1, 1))
    out: list[int] = []
    for i, (start, length) in enumerate(rhythm):
        chord = chord_at(chords, first_beat + start)
        tones = {(chord.root + s) % 12 for s in QUALITIES[chord.quality][:3]}
        last = i == len(rhythm) - 1
        strong = i == 0 or last or (start == int(start) and (int(start) % 2 == 0 or length > 1))
        allowed = tones if strong else scale | tones
        if home and last and plan.tonic in tones:
            allowed = {plan.tonic}
        options = [p for p in range(low, high + 1) if p % 12 in allowed]
        if rng.random() < 0.25:
            drift = -drift
        aim = pitch + drift * rng.choice((0, 1, 2, 2)) - round((pitch - centre) * 0.25)
        weights = [2.0 ** -abs(p - aim) * (0.4 if p == pitch else 1.0) for p in options]
        pitch = rng.choices(options, weights)[0]
        out.append(pitch)
    return out


def _line(
    plan: SongPlan, num_notes: int, chords: tuple[Chord, ...], first_beat: float, centre: int,
    rng: random.Random, home: bool,
) -> list[LineNote]:  # fmt: skip
    """A line whose motif is on the right side of the split."""
    rhythm = _rhythm(plan, num_notes, rng)
    want = plan.split == "test_words"
    for _ in range(1000):
        pitches = _pitches(plan, rhythm, chords, first_beat, centre, rng, home)
        if is_held_out(motif_of(pitches)) == want:
            return [LineNote(s, n, p) for (s, n), p in zip(rhythm, pitches, strict=True)]
    raise CorpusError("no melody with a motif of this split was found")


def melody_centre(plan: SongPlan) -> int:
    """Middle of the melody's range: the singer's, or a comfortable one for instruments."""
    return 69 if plan.voice is None else voice_named(plan.voice).centre


def write_melodies(
    plan: SongPlan, chords: tuple[Chord, ...], syllables: dict[str, tuple[int, int]]
) -> dict[str, list[list[LineNote]]]:
    """The lines of each kind of section: A, B, A, B' with B' closing on the tonic's chord.

    Sections of one kind share their melody, so a chorus returns as it was.
    """
    rng = stream(plan.seed, plan.index, "melody")
    out: dict[str, list[list[LineNote]]] = {}
    for section in sorted(plan.sections, key=lambda s: (s.kind, -s.num_lines, s.start_bar)):
        if section.num_lines == 0 or section.kind in out:
            continue
        out[section.kind] = _section_lines(plan, section, chords, syllables[section.kind], rng)
    return out


def _section_lines(
    plan: SongPlan, section: Section, chords: tuple[Chord, ...], counts: tuple[int, int],
    rng: random.Random,
) -> list[list[LineNote]]:  # fmt: skip
    beats = plan.beats_per_bar
    centre = melody_centre(plan) + {"chorus": 2, "bridge": 1}.get(section.kind, -1)
    lines: list[list[LineNote]] = []
    for i in range(section.num_lines):
        first_beat = float((section.start_bar + i * plan.line_bars) * beats)
        if i == 2:
            lines.append(lines[0])
        else:
            home = i == section.num_lines - 1
            lines.append(_line(plan, counts[i % 2], chords, first_beat, centre, rng, home))
    if len(lines) == 4:
        # B' is B with a new ending: up to two last notes differ, and none of the motif.
        keep = max(MOTIF_NOTES, len(lines[1]) - 2)
        lines[3] = [*lines[1][:keep], *_ending(lines[1][keep:], lines[3][keep:])]
    return lines


def _ending(line: list[LineNote], other: list[LineNote]) -> list[LineNote]:
    return [
        LineNote(note.start, note.length, new.pitch) for note, new in zip(line, other, strict=True)
    ]
