"""The band's notes: drums, bass and chord instruments from the style's grooves."""

from __future__ import annotations

import random

from khala.synth.harmony import QUALITIES, chord_at, chord_pitches
from khala.synth.score import DRUMS, Chord, Note, Section, SongPlan, stream
from khala.synth.styles import BASSES, WALTZ_CHORUS, WALTZ_VERSE, Groove, style_named

KICK, HAT, OPEN_HAT, CRASH, RIDE, TOM_LOW, TOM_HIGH = 36, 42, 46, 49, 51, 45, 50
SIDE_STICK = 37


def arrange(plan: SongPlan, chords: tuple[Chord, ...]) -> tuple[Note, ...]:
    """Every note of the band but the melody's, in beats."""
    rng = stream(plan.seed, plan.index, "band")
    notes: list[Note] = []
    bass = next(name for name in plan.instruments if name in BASSES)
    melodic = [i for i in plan.instruments if i not in (bass, DRUMS, plan.lead)]
    comping = melodic or [i for i in plan.instruments if i not in (bass, DRUMS)]
    for section in plan.sections:
        groove = _groove(plan, section)
        for bar in range(section.num_bars):
            first = float((section.start_bar + bar) * plan.beats_per_bar)
            last_of_song = section is plan.sections[-1] and bar == section.num_bars - 1
            chord = chord_at(chords, first)
            if last_of_song:
                notes += _final(plan, chord, first, bass, comping)
                continue
            if DRUMS in plan.instruments:
                fill = bar == section.num_bars - 1 and section.num_bars >= 4
                notes += _drums(plan, section, groove, first, bar == 0, fill, rng)
            if section.kind != "intro" or bar > 0:
                notes += _bass(groove, chord, first, plan.beats_per_bar, bass, rng)
            for i, part in enumerate(comping):
                if i > 0 and section.kind == "intro":
                    continue
                notes += _comp(plan, groove.comp, i, part, chord, first, rng)
    return tuple(notes)


def _groove(plan: SongPlan, section: Section) -> Groove:
    style = style_named(plan.style)
    full = section.kind in ("chorus", "solo")
    if plan.beats_per_bar == 3:
        return WALTZ_CHORUS if full else WALTZ_VERSE
    return style.chorus if full else style.verse


def _drums(
    plan: SongPlan, section: Section, groove: Groove, first: float, opening: bool, fill: bool,
    rng: random.Random,
) -> list[Note]:  # fmt: skip
    snare = style_named(plan.style).snare_note
    if section.kind in ("verse", "bridge") and plan.style in ("folk", "country", "ballad"):
        snare = SIDE_STICK
    rows = ((groove.kick, KICK), (groove.snare, snare), (groove.hat, HAT), (groove.ride, RIDE))
    steps = plan.beats_per_bar * 4
    out: list[Note] = []
    fill_from = steps - 4 if fill else steps
    for pattern, pitch in rows:
        for step, mark in enumerate(pattern[:steps]):
            if mark == "." or (step >= fill_from and pitch != KICK):
                continue
            loud = 104 if mark == "x" else 68
            if pitch == HAT:
                loud -= 12 if step % 4 else 0
            out.append(_hit(pitch, first + step / 4, loud + rng.randint(-7, 7)))
    for i in range(4 if fill else 0):
        pitch = (snare, snare, TOM_HIGH, TOM_LOW)[i]
        out.append(_hit(pitch, first + (fill_from + i) / 4, 84 + 6 * i + rng.randint(-4, 4)))
    if opening and section.kind in ("chorus", "solo", "outro"):
        out.append(_hit(CRASH, first, 96))
    return out


def _hit(pitch: int, beat: float, velocity: int) -> Note:
    return Note(part=DRUMS, pitch=pitch, start=beat, end=beat + 0.2, velocity=min(velocity, 124))


def _bass(
    groove: Groove, chord: Chord, first: float, beats: int, part: str, rng: random.Random
) -> list[Note]:
    low = min(p for p in range(28, 40) if p % 12 == chord.root)
    third = next(p for p in range(low + 1, low + 12) if p % 12 == _third(chord))
    pitch_of = {"r": low, "f": low + (6 if chord.quality in ("dim", "m7b5") else 7),
                "o": low + 12, "t": third}  # fmt: skip
    pattern = groove.bass[: beats * 4]
    out: list[Note] = []
    for step, mark in enumerate(pattern):
        if mark not in pitch_of:
            continue
        length = 1
        while step + length < len(pattern) and pattern[step + length] == "-":
            length += 1
        start = first + step / 4
        out.append(
            Note(part=part, pitch=pitch_of[mark], start=start, end=start + length / 4 - 0.04,
                 velocity=96 + rng.randint(-6, 6))
        )  # fmt: skip
    return out


def _third(chord: Chord) -> int:
    """Pitch class of a chord's third."""
    return (chord.root + QUALITIES[chord.quality][1]) % 12


def _comp(
    plan: SongPlan, manner: str, order: int, part: str, chord: Chord, first: float,
    rng: random.Random,
) -> list[Note]:  # fmt: skip
    """One bar of chords; the second instrument of a band plays longer and softer."""
    beats = plan.beats_per_bar
    pitches = chord_pitches(chord, 52 if order == 0 else 57)
    if part in ("synth pad", "strings", "synth strings") or (order > 0 and manner != "skank"):
        manner = "pad"
    hits = _comp_hits(manner, beats)
    out: list[Note] = []
    if manner in ("arp8", "arp16"):
        step = 0.5 if manner == "arp8" else 0.25
        ladder = [*pitches, pitches[0] + 12, *reversed(pitches[1:])]
        for i in range(int(beats / step)):
            start = first + i * step
            out.append(
                Note(part=part, pitch=ladder[i % len(ladder)], start=start, end=start + step * 1.6,
                     velocity=74 + rng.randint(-6, 6) + (8 if i % 4 == 0 else 0))
            )  # fmt: skip
        return out
    for start, length, velocity in hits:
        for i, pitch in enumerate(pitches):
            # A strum is not one instant: strings follow each other by some milliseconds.
            late = 0.02 * i if manner in ("strum", "skank") else 0.0
            out.append(
                Note(part=part, pitch=pitch, start=first + start + late,
                     end=first + start + length, velocity=velocity + rng.randint(-5, 5))
            )  # fmt: skip
    return out


def _comp_hits(manner: str, beats: int) -> list[tuple[float, float, int]]:
    """Start, length and velocity of the chords of one bar."""
    if manner == "pad":
        return [(0.0, beats - 0.02, 66)]
    if manner == "half":
        return [(0.0, 1.9, 80), (2.0, beats - 2.1, 74)] if beats == 4 else [(0.0, 2.9, 78)]
    if manner == "block":
        return [(float(i), 0.9, 84 if i % 2 == 0 else 76) for i in range(beats)]
    if manner == "strum":
        return [(i / 2, 0.45, 84 if i % 2 == 0 else 68) for i in range(beats * 2) if i != 1]
    if manner in ("offbeat", "skank"):
        return [(i + 0.5, 0.3 if manner == "skank" else 0.42, 82) for i in range(beats)]
    if manner == "stabs":
        return [(0.0, 1.4, 84), (1.5, 0.4, 78)] + ([(3.0, 0.8, 76)] if beats == 4 else [])
    if manner == "waltz":
        return [(1.0, 0.7, 74), (2.0, 0.7, 72)]
    return []


def _final(plan: SongPlan, chord: Chord, first: float, bass: str, comping: list[str]) -> list[Note]:
    """The last bar: one chord that rings."""
    end = first + plan.beats_per_bar + 0.5
    low = min(p for p in range(28, 40) if p % 12 == chord.root)
    out = [Note(part=bass, pitch=low, start=first, end=end, velocity=92)]
    for order, part in enumerate(comping):
        for pitch in chord_pitches(chord, 52 if order == 0 else 57):
            out.append(Note(part=part, pitch=pitch, start=first, end=end, velocity=76))
    if DRUMS in plan.instruments:
        out += [_hit(KICK, first, 100), _hit(CRASH, first, 88)]
    return out
