"""The styles of the demo corpus: tempo, drums, bass, chord instruments, progressions, moods.

Patterns are strings of sixteenths, one bar long: ``x`` a hit, ``o`` a soft hit, ``.`` nothing.
Bass patterns name the note: ``r`` root, ``f`` fifth, ``o`` octave, ``t`` third, ``-`` hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from khala.errors import ConfigError

# Instrument -> General MIDI program (0-based), left/right place in [-1, 1], gain in dB.
INSTRUMENTS: dict[str, tuple[int, float, float]] = {
    "piano": (0, -0.27, 0.0),
    "electric piano": (4, 0.36, 1.0),
    "organ": (16, 0.45, -4.0),
    "accordion": (21, -0.45, -3.0),
    "nylon guitar": (24, 0.54, 2.0),
    "acoustic guitar": (25, 0.54, 2.0),
    "clean guitar": (27, -0.63, 0.0),
    "muted guitar": (28, 0.72, 0.0),
    "overdriven guitar": (29, -0.72, -5.0),
    "distorted guitar": (30, 0.72, -6.0),
    "upright bass": (32, 0.0, 1.0),
    "electric bass": (33, 0.0, -2.0),
    "picked bass": (34, 0.0, -2.0),
    "synth bass": (38, 0.0, -3.0),
    "strings": (48, 0.18, -3.0),
    "synth strings": (50, -0.18, -4.0),
    "trumpet": (56, 0.18, -2.0),
    "saxophone": (65, -0.18, -2.0),
    "flute": (73, 0.18, 0.0),
    "violin": (40, 0.18, -1.0),
    "vibraphone": (11, 0.36, 1.0),
    "synth lead": (81, 0.18, -6.0),
    "square lead": (80, -0.18, -6.0),
    "synth pad": (89, 0.0, -3.0),
    "banjo": (105, 0.54, 0.0),
    "harp": (46, -0.36, 1.0),
}

BASSES = frozenset({"upright bass", "electric bass", "picked bass", "synth bass"})

MAJOR_PROGRESSIONS: tuple[tuple[int, ...], ...] = (
    (1, 5, 6, 4), (6, 4, 1, 5), (1, 6, 4, 5), (1, 4, 5, 4), (1, 4, 1, 5), (1, 3, 4, 5),
    (4, 1, 5, 6), (1, 2, 4, 5), (1, 4, 6, 5), (2, 5, 1, 6),
)  # fmt: skip
MINOR_PROGRESSIONS: tuple[tuple[int, ...], ...] = (
    (1, 6, 3, 7), (1, 4, 6, 5), (1, 7, 6, 7), (1, 6, 4, 5), (1, 3, 7, 6), (6, 7, 1, 1),
    (1, 4, 7, 3), (1, 5, 6, 4),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Groove:
    """One bar of drums and bass, and the way the chords are played over it."""

    kick: str
    snare: str
    hat: str
    bass: str
    comp: str
    """block, half, strum, arp8, arp16, offbeat, skank, pad, stabs or waltz."""

    ride: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """A style: what it may sound like and how often it appears."""

    name: str
    bpm: tuple[int, int]
    moods: tuple[str, ...]
    minor: float
    """Share of songs in a minor key."""

    basses: tuple[str, ...]
    chords: tuple[tuple[str, ...], ...]
    """Sets of chord instruments, one of which is chosen."""

    leads: tuple[str, ...]
    verse: Groove
    chorus: Groove
    waltz: float = 0.0
    """Share of songs in 3/4."""

    swing: float = 0.5
    sevenths: bool = False
    snare_note: int = 38
    weight: float = 1.0


WALTZ_VERSE = Groove(
    kick="x...........", snare="....o...o...", hat="x...x...x...", bass="r-----------", comp="waltz"
)
WALTZ_CHORUS = Groove(
    kick="x.........o.", snare="....x...x...", hat="x.o.x.o.x.o.", bass="r-------f---", comp="waltz"
)

STYLES: tuple[Style, ...] = (
    Style(
        name="pop", bpm=(90, 128), moods=("happy", "bright", "romantic", "hopeful"), minor=0.3,
        basses=("electric bass", "synth bass"),
        chords=(("piano", "clean guitar"), ("piano", "synth pad"), ("acoustic guitar", "piano")),
        leads=("synth lead", "piano", "flute"), weight=1.4,
        verse=Groove(kick="x.......x.x.....", snare="....x.......x...",
                     hat="x.x.x.x.x.x.x.x.", bass="r---r---r---r---", comp="half"),
        chorus=Groove(kick="x...x...x...x...", snare="....x.......x..o",
                      hat="x.x.x.x.x.x.x.x.", bass="r-r-r-r-r-r-r-o-", comp="block"),
    ),
    Style(
        name="rock", bpm=(104, 152), moods=("energetic", "rebellious", "driving"), minor=0.45,
        basses=("picked bass", "electric bass"),
        chords=(("overdriven guitar",), ("clean guitar", "distorted guitar"),
                ("overdriven guitar", "organ")),
        leads=("overdriven guitar", "organ"),
        verse=Groove(kick="x.....x.x.......", snare="....x.......x...",
                     hat="x.x.x.x.x.x.x.x.", bass="r-r-r-r-r-r-r-r-", comp="stabs"),
        chorus=Groove(kick="x.x...x.x.x...x.", snare="....x.......x...",
                      hat="................", ride="x...x...x...x...",
                      bass="r-r-r-r-r-r-r-r-", comp="block"),
    ),
    Style(
        name="folk", bpm=(84, 124), moods=("warm", "gentle", "nostalgic"), minor=0.35,
        basses=("upright bass",), waltz=0.25,
        chords=(("acoustic guitar",), ("acoustic guitar", "banjo"), ("nylon guitar", "accordion")),
        leads=("violin", "flute", "acoustic guitar"),
        verse=Groove(kick="x...............", snare="................",
                     hat="....o.......o...", bass="r-------f-------", comp="arp8"),
        chorus=Groove(kick="x.......x.......", snare="....o.......o...",
                      hat="..x...x...x...x.", bass="r-------f-------", comp="strum"),
    ),
    Style(
        name="ballad", bpm=(60, 84), moods=("sad", "romantic", "tender"), minor=0.4,
        basses=("electric bass", "upright bass"), waltz=0.15,
        chords=(("piano",), ("piano", "strings"), ("electric piano", "strings")),
        leads=("violin", "piano", "saxophone"),
        verse=Groove(kick="................", snare="................",
                     hat="................", bass="r---------------", comp="arp8"),
        chorus=Groove(kick="x.........x.....", snare="....x.......x...",
                      hat="x.x.x.x.x.x.x.x.", bass="r-------r-----f-", comp="half"),
    ),
    Style(
        name="dance", bpm=(116, 132), moods=("energetic", "euphoric", "bright"), minor=0.6,
        basses=("synth bass",),
        chords=(("synth strings",), ("synth pad", "piano"), ("synth strings", "synth pad")),
        leads=("synth lead", "square lead"),
        verse=Groove(kick="x...x...x...x...", snare="................",
                     hat="..x...x...x...x.", bass="..r-..r-..r-..r-", comp="pad"),
        chorus=Groove(kick="x...x...x...x...", snare="....x.......x...",
                      hat="..x.o.x...x.o.x.", bass="..r-..r-..r-..o-", comp="offbeat"),
    ),
    Style(
        name="r&b", bpm=(66, 98), moods=("smooth", "romantic", "sultry"), minor=0.55,
        basses=("electric bass", "synth bass"), sevenths=True, swing=0.56,
        chords=(("electric piano",), ("electric piano", "clean guitar")),
        leads=("saxophone", "electric piano"),
        verse=Groove(kick="x......x..x.....", snare="....x.......x...",
                     hat="x.xox.x.x.xox.x.", bass="r-----r-..f-....", comp="half"),
        chorus=Groove(kick="x..x...x..x.....", snare="....x.......x..o",
                      hat="xoxox.xoxoxox.xo", bass="r-----r-..f-t-..", comp="half"),
    ),
    Style(
        name="country", bpm=(92, 140), moods=("happy", "warm", "nostalgic"), minor=0.12,
        basses=("upright bass", "electric bass"), waltz=0.15,
        chords=(("acoustic guitar", "banjo"), ("acoustic guitar", "clean guitar"),
                ("acoustic guitar", "piano")),
        leads=("violin", "clean guitar", "banjo"),
        verse=Groove(kick="x.......x.......", snare="....o.......o...",
                     hat="..o...o...o...o.", bass="r-------f-------", comp="strum"),
        chorus=Groove(kick="x.......x.......", snare="....x.......x...",
                      hat="x.x.x.x.x.x.x.x.", bass="r---r---f---f---", comp="strum"),
    ),
    Style(
        name="jazz", bpm=(84, 144), moods=("smooth", "playful", "dreamy"), minor=0.4,
        basses=("upright bass",), sevenths=True, swing=0.64, waltz=0.35,
        chords=(("piano",), ("piano", "vibraphone"), ("clean guitar", "vibraphone")),
        leads=("saxophone", "trumpet", "vibraphone"),
        verse=Groove(kick="x...............", snare="................",
                     hat="....x.......x...", ride="x...x.o.x...x.o.",
                     bass="r---t---f---t---", comp="half"),
        chorus=Groove(kick="x.......o.......", snare="......o.......o.",
                      hat="....x.......x...", ride="x...x.o.x...x.o.",
                      bass="r---t---f---o---", comp="stabs"),
    ),
    Style(
        name="reggae", bpm=(68, 92), moods=("relaxed", "sunny", "happy"), minor=0.35,
        basses=("electric bass",),
        chords=(("muted guitar", "organ"), ("clean guitar", "organ"), ("piano", "organ")),
        leads=("organ", "trumpet"),
        verse=Groove(kick="........x.......", snare="........x.......",
                     hat="x.o.x.o.x.o.x.o.", bass="r---..r-f---t---", comp="skank"),
        chorus=Groove(kick="x.......x.......", snare="........x.......",
                      hat="x.x.x.x.x.x.x.x.", bass="r---..r-f---o---", comp="skank"),
    ),
    Style(
        name="synthwave", bpm=(88, 120), moods=("dreamy", "dark", "nostalgic"), minor=0.75,
        basses=("synth bass",), snare_note=40,
        chords=(("synth pad", "synth strings"), ("synth pad",), ("synth strings",)),
        leads=("square lead", "synth lead"),
        verse=Groove(kick="x.......x.......", snare="....x.......x...",
                     hat="................", bass="r-r-r-r-r-r-r-r-", comp="pad"),
        chorus=Groove(kick="x...x...x...x...", snare="....x.......x...",
                      hat="..x...x...x...x.", bass="r-o-r-o-r-o-r-o-", comp="arp16"),
    ),
    Style(
        name="lo-fi", bpm=(68, 90), moods=("calm", "dreamy", "sleepy"), minor=0.5,
        basses=("upright bass", "electric bass"), sevenths=True, swing=0.58,
        chords=(("electric piano",), ("electric piano", "vibraphone"), ("nylon guitar",)),
        leads=("electric piano", "flute", "vibraphone"),
        verse=Groove(kick="x.........x.....", snare="....x.......x...",
                     hat="x.o.x.o.x.o.x.o.", bass="r-------..f-....", comp="half"),
        chorus=Groove(kick="x......x..x.....", snare="....x.......x...",
                      hat="x.o.x.o.x.o.x.oo", bass="r-------..f-t-..", comp="half"),
    ),
    Style(
        name="waltz", bpm=(84, 156), moods=("elegant", "romantic", "nostalgic"), minor=0.45,
        basses=("upright bass",), waltz=1.0,
        chords=(("piano", "strings"), ("accordion", "acoustic guitar"), ("harp", "strings")),
        leads=("violin", "accordion", "flute"), weight=0.7,
        verse=WALTZ_VERSE, chorus=WALTZ_CHORUS,
    ),
)  # fmt: skip


def style_named(name: str) -> Style:
    """The style called ``name``; ``ConfigError`` when there is none."""
    for style in STYLES:
        if style.name == name:
            return style
    raise ConfigError(f"no style {name!r}; there are: {', '.join(s.name for s in STYLES)}")
