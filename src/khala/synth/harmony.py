"""Chords: scale degrees to pitches, and the progression of each section."""

from __future__ import annotations

from khala.synth.score import Chord, SongPlan, stream
from khala.synth.styles import MAJOR_PROGRESSIONS, MINOR_PROGRESSIONS, style_named

MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)
MINOR_SCALE = (0, 2, 3, 5, 7, 8, 10)

PITCH_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

QUALITIES: dict[str, tuple[int, ...]] = {
    "": (0, 4, 7), "m": (0, 3, 7), "dim": (0, 3, 6), "maj7": (0, 4, 7, 11), "m7": (0, 3, 7, 10),
    "7": (0, 4, 7, 10), "m7b5": (0, 3, 6, 10),
}  # fmt: skip


def scale_of(plan: SongPlan) -> tuple[int, ...]:
    """Semitones of the song's scale above its tonic."""
    return MINOR_SCALE if plan.minor else MAJOR_SCALE


def key_name(tonic: int, minor: bool) -> str:
    """Such as ``C minor``."""
    return f"{PITCH_NAMES[tonic]} {'minor' if minor else 'major'}"


def chord_name(chord: Chord) -> str:
    """Such as ``Am7``."""
    return PITCH_NAMES[chord.root] + chord.quality


def chord_of(plan: SongPlan, degree: int, *, seventh: bool) -> tuple[int, str]:
    """Root pitch class and quality of the chord on a degree (1 to 7) of the song's key."""
    scale = scale_of(plan)
    root = scale[degree - 1]
    third = (scale[(degree + 1) % 7] - root) % 12
    fifth = (scale[(degree + 3) % 7] - root) % 12
    top = (scale[(degree + 5) % 7] - root) % 12
    if plan.minor and degree == 5:
        # The dominant of a minor key leads with its major third.
        third, top = 4, 10
    triad = {(4, 7): "", (3, 7): "m", (3, 6): "dim"}[(third, fifth)]
    if not seventh:
        return (plan.tonic + root) % 12, triad
    names = {("", 11): "maj7", ("", 10): "7", ("m", 10): "m7", ("dim", 10): "m7b5"}
    return (plan.tonic + root) % 12, names[(triad, top)]


def harmonise(plan: SongPlan) -> tuple[Chord, ...]:
    """One chord a bar; verse, chorus and bridge have progressions of their own."""
    rng = stream(plan.seed, plan.index, "harmony")
    bank = MINOR_PROGRESSIONS if plan.minor else MAJOR_PROGRESSIONS
    verse, chorus, bridge = rng.sample(bank, 3)
    by_kind = {"verse": verse, "chorus": chorus, "bridge": bridge, "intro": verse, "outro": verse,
               "solo": chorus}  # fmt: skip
    seventh = style_named(plan.style).sevenths
    chords: list[Chord] = []
    beats = plan.beats_per_bar
    # Four-bar lines keep each chord for two bars, so that a line meets as many chords as others.
    bars_per_chord = plan.line_bars // 2
    for section in plan.sections:
        degrees = by_kind[section.kind]
        for bar in range(section.num_bars):
            degree = degrees[(bar // bars_per_chord) % 4]
            last = section is plan.sections[-1] and bar == section.num_bars - 1
            if last:
                degree = 1
            root, quality = chord_of(plan, degree, seventh=seventh and not last)
            start = float((section.start_bar + bar) * beats)
            chords.append(Chord(root=root, quality=quality, start=start, end=start + beats))
    return tuple(chords)


def chord_at(chords: tuple[Chord, ...], beat: float) -> Chord:
    """The chord that sounds at ``beat``; the last one rings on."""
    for chord in chords:
        if chord.start <= beat < chord.end:
            return chord
    return chords[-1]


def chord_pitches(chord: Chord, low: int) -> list[int]:
    """The chord as close as it lies at and above MIDI pitch ``low``."""
    pitches = [(chord.root + step) % 12 for step in QUALITIES[chord.quality]]
    return sorted(low + (pitch - low) % 12 for pitch in pitches)
