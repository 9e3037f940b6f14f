"""A plan becomes a score: chords, lyrics, melodies and the band's notes."""

from __future__ import annotations

from khala.synth.arrange import arrange
from khala.synth.harmony import harmonise
from khala.synth.lyrics import Line, lyrics_text, write_lyrics
from khala.synth.melody import LineNote, syllable_counts, write_melodies
from khala.synth.score import DRUMS, VOCALS, Note, Score, Section, SongPlan, SungWord
from khala.synth.styles import INSTRUMENTS


def compose(plan: SongPlan) -> Score:
    """Write the song that ``plan`` describes; a pure function of it."""
    chords = harmonise(plan)
    counts = syllable_counts(plan)
    melodies = write_melodies(plan, chords, counts)
    band = list(arrange(plan, chords))
    words: list[SungWord] = []
    lyrics = ""
    if plan.voice is not None:
        lines = write_lyrics(plan, counts)
        lyrics = lyrics_text(plan, lines)
        words = _sing(plan, melodies, lines)
    soloist = plan.lead or plan.instruments[0]
    for section in plan.sections:
        if plan.voice is None or section.kind == "solo":
            band += _play_melody(plan, section, melodies, soloist)
    programs = {name: INSTRUMENTS[name][0] for name in plan.instruments if name != DRUMS}
    band.sort(key=lambda n: (n.start, n.part, n.pitch))
    return Score(
        plan=plan, chords=chords, band=tuple(band),
        words=tuple(words), lyrics=lyrics, programs=programs,
    )  # fmt: skip


def _first_beat(plan: SongPlan, section: Section, line: int) -> float:
    return float((section.start_bar + line * plan.line_bars) * plan.beats_per_bar)


def _sing(
    plan: SongPlan, melodies: dict[str, list[list[LineNote]]], lines: dict[str, list[Line]]
) -> list[SungWord]:
    """Words on notes: the syllables of a word take consecutive notes of the line's melody."""
    words: list[SungWord] = []
    number = 0
    for section in plan.sections:
        for i, line in enumerate(lines.get(section.name, [])):
            beat = _first_beat(plan, section, i)
            notes = iter(melodies[section.kind][i])
            for word in line:
                taken = [next(notes) for _ in range(word.num_syllables)]
                words.append(
                    SungWord(
                        word=word.text, phonemes=word.phonemes, line=number,
                        notes=tuple(
                            Note(part=VOCALS, pitch=n.pitch, start=beat + n.start,
                                 end=beat + n.start + n.length)
                            for n in taken
                        ),
                    )
                )  # fmt: skip
            number += 1
    return words


def _play_melody(
    plan: SongPlan, section: Section, melodies: dict[str, list[list[LineNote]]], part: str
) -> list[Note]:
    """The melody on an instrument: a solo borrows the chorus's first lines."""
    kind = "chorus" if section.kind == "solo" else section.kind
    out: list[Note] = []
    for i in range(section.num_bars // plan.line_bars):
        if kind not in melodies or i >= len(melodies[kind]):
            continue
        beat = _first_beat(plan, section, i)
        for note in melodies[kind][i]:
            start = beat + note.start
            pitch = note.pitch if plan.voice is None else 60 + note.pitch % 12
            out.append(
                Note(part=part, pitch=pitch, start=start, end=start + note.length * 0.96,
                     velocity=104)
            )  # fmt: skip
    return out
