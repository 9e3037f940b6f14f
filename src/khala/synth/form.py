"""The plan of a song: split, style, tempo, key, voice and the order of its sections."""

from __future__ import annotations

import random

from khala.synth.score import Section, SongPlan, stream
from khala.synth.styles import STYLES, Style
from khala.synth.voices import VOICES

MIN_SONG_S, MAX_SONG_S = 20.0, 60.0
INSTRUMENTAL_SHARE = 0.1
MIN_LINE_S = 3.2

_TINY_BPM = {4: (135, 160), 3: (92, 112)}

# Kind and lines (0: a section without singing, its bars follow from the line length).
_FORMS: tuple[tuple[tuple[str, int], ...], ...] = (
    (("intro", 0), ("verse", 4), ("chorus", 4), ("outro", 0)),
    (("intro", 0), ("verse", 2), ("chorus", 4), ("outro", 0)),
    (("intro", 0), ("verse", 2), ("chorus", 2), ("verse", 2), ("chorus", 2), ("outro", 0)),
    (("intro", 0), ("verse", 4), ("chorus", 2), ("bridge", 2), ("chorus", 2), ("outro", 0)),
    (("intro", 0), ("verse", 2), ("chorus", 4), ("bridge", 2), ("chorus", 4), ("outro", 0)),
    (("verse", 4), ("chorus", 4), ("outro", 0)),
    (("intro", 0), ("chorus", 2), ("verse", 4), ("chorus", 2), ("outro", 0)),
    (("intro", 0), ("verse", 4), ("chorus", 4), ("verse", 4), ("chorus", 4), ("outro", 0)),
    (("intro", 0), ("verse", 4), ("chorus", 4), ("bridge", 2), ("chorus", 4), ("outro", 0)),
    (("verse", 2), ("chorus", 2), ("solo", 0), ("chorus", 2), ("outro", 0)),
    (("intro", 0), ("verse", 2), ("chorus", 2), ("outro", 0)),
    (("verse", 2), ("chorus", 4), ("outro", 0)),
)


def split_of(index: int) -> str:
    """The split of the song ``index``: three of forty are held out, each for its own question."""
    return {0: "test", 1: "test_voice", 2: "test_words"}.get(index % 40, "train")


def _sections(form: tuple[tuple[str, int], ...], line_bars: int) -> tuple[Section, ...]:
    counts: dict[str, int] = {}
    repeated = {kind for kind, _ in form if [k for k, _ in form].count(kind) > 1}
    out: list[Section] = []
    bar = 0
    for kind, lines in form:
        counts[kind] = counts.get(kind, 0) + 1
        numbered = kind == "verse" or (kind in repeated and kind != "chorus")
        name = kind.capitalize() + (f" {counts[kind]}" if numbered else "")
        bars = lines * line_bars if lines else (2 if kind != "solo" else 2 * line_bars)
        out.append(Section(name=name, kind=kind, start_bar=bar, num_bars=bars, num_lines=lines))
        bar += bars
    return tuple(out)


def _instruments(style: Style, rng: random.Random, instrumental: bool) -> tuple[str, ...]:
    chords = rng.choice(style.chords)
    bass = rng.choice(style.basses)
    lead = (rng.choice(style.leads),) if instrumental else ()
    drums = () if style.name == "ballad" and rng.random() < 0.3 else ("drums",)
    return tuple(dict.fromkeys((*lead, *chords, bass, *drums)))


def plan_song(index: int, seed: int, *, tiny: bool = False) -> SongPlan:
    """Decide everything of song ``index`` but its notes and words; takes well under 1 ms."""
    rng = stream(seed, index, "plan")
    split = split_of(index)
    style = rng.choices(STYLES, [s.weight for s in STYLES])[0]
    beats_per_bar = 3 if rng.random() < style.waltz else 4
    bpm = rng.randint(*(_TINY_BPM[beats_per_bar] if tiny else style.bpm))
    instrumental = split == "train" and rng.random() < INSTRUMENTAL_SHARE
    pool = [v for v in VOICES if v.held_out == (split == "test_voice")]
    voice = None if instrumental else rng.choice(pool).name
    instruments = _instruments(style, rng, instrumental)
    swing = style.swing if rng.random() < 0.8 else 0.5
    bar_s = beats_per_bar * 60.0 / bpm
    line_bars = 2 if tiny or 2 * bar_s >= MIN_LINE_S else 4
    lead_s = 0.2
    tail_s = 0.3 if tiny else round(rng.uniform(1.2, 2.2), 3)
    if tiny:
        form: tuple[tuple[str, int], ...] = (("verse", 1),)
        sections = _sections(form, line_bars)
    else:
        sections = _choose_form(rng, line_bars, bar_s, lead_s + tail_s)
    return SongPlan(
        index=index, seed=seed, split=split, style=style.name, mood=rng.choice(style.moods),
        bpm=bpm, swing=swing, beats_per_bar=beats_per_bar, tonic=rng.randrange(12),
        minor=rng.random() < style.minor, voice=voice,
        lead=instruments[0] if instrumental else None, instruments=instruments,
        sections=sections, line_bars=line_bars, tail_s=tail_s, lead_s=lead_s,
    )  # fmt: skip


def _choose_form(
    rng: random.Random, line_bars: int, bar_s: float, extra_s: float
) -> tuple[Section, ...]:
    fitting: list[tuple[Section, ...]] = []
    for form in _FORMS:
        sections = _sections(form, line_bars)
        duration_s = sum(s.num_bars for s in sections) * bar_s + extra_s
        if MIN_SONG_S <= duration_s <= MAX_SONG_S:
            fitting.append(sections)
    return rng.choice(fitting)
