"""The ground truth of a song: ``song.json``, with every time in seconds of the song."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from khala.synth.harmony import chord_name, key_name
from khala.synth.placement import PlacedPhoneme
from khala.synth.score import DRUMS, VOCALS, Score, SongPlan, stream
from khala.synth.styles import BASSES
from khala.synth.voices import voice_named


@dataclass(frozen=True, slots=True)
class Sung:
    """Where the phonemes of the song ended up; empty for an instrumental."""

    phonemes: tuple[PlacedPhoneme, ...] = ()


def song_id(index: int) -> str:
    """The folder name of a song."""
    return f"{index:06d}"


def song_truth(score: Score, sung: Sung, duration_s: float) -> dict[str, Any]:
    """Everything known about a song, ready for JSON."""
    plan = score.plan
    words = _words(score, sung)
    return {
        "id": song_id(plan.index),
        "index": plan.index,
        "seed": plan.seed,
        "split": plan.split,
        "duration_s": round(duration_s, 6),
        "tags": tags(plan),
        "description": description(plan),
        "lyrics": score.lyrics,
        "instrumental": plan.voice is None,
        "voice": plan.voice,
        "bpm": float(plan.bpm),
        "time_signature": f"{plan.beats_per_bar}/4",
        "key": key_name(plan.tonic, plan.minor),
        "style": plan.style,
        "mood": plan.mood,
        "instruments": list(plan.instruments),
        "sections": _sections(plan),
        "beats": [_time(plan, b) for b in range(plan.num_bars * plan.beats_per_bar)],
        "chords": [
            {"name": chord_name(c), "start_s": _time(plan, c.start), "end_s": _time(plan, c.end)}
            for c in score.chords
        ],
        "notes": _notes(score),
        "words": words,
        "phonemes": [
            {"phoneme": p.phoneme, "start_s": round(p.start_s, 4), "end_s": round(p.end_s, 4)}
            for p in sung.phonemes
        ],
    }


def _time(plan: SongPlan, beat: float) -> float:
    return round(plan.clock.seconds(beat), 4)


def _sections(plan: SongPlan) -> list[dict[str, Any]]:
    beats = plan.beats_per_bar
    return [
        {
            "name": s.name,
            "start_s": _time(plan, s.start_bar * beats),
            "end_s": _time(plan, (s.start_bar + s.num_bars) * beats),
        }
        for s in plan.sections
    ]


def _notes(score: Score) -> list[dict[str, Any]]:
    plan = score.plan
    notes: list[dict[str, Any]] = []
    for number, word in enumerate(score.words):
        notes += [
            {"part": VOCALS, "pitch": n.pitch, "start_s": _time(plan, n.start),
             "end_s": _time(plan, n.end), "word": number}
            for n in word.notes
        ]  # fmt: skip
    notes += [
        {"part": n.part, "pitch": n.pitch, "start_s": _time(plan, n.start),
         "end_s": _time(plan, n.end)}
        for n in score.band
    ]  # fmt: skip
    return notes


def _words(score: Score, sung: Sung) -> list[dict[str, Any]]:
    spans: dict[int, tuple[float, float]] = {}
    for p in sung.phonemes:
        start, end = spans.get(p.word, (p.start_s, p.end_s))
        spans[p.word] = (min(start, p.start_s), max(end, p.end_s))
    return [
        {"word": score.words[i].word, "start_s": round(start, 4), "end_s": round(end, 4)}
        for i, (start, end) in sorted(spans.items())
    ]


def _singer_tag(plan: SongPlan) -> str:
    return "instrumental" if plan.voice is None else f"{voice_named(plan.voice).gender} vocal"


def tags(plan: SongPlan) -> list[str]:
    """Style, singer, instruments, tempo, key, metre and mood, in this order."""
    instruments = ["bass" if i in BASSES and i != "synth bass" else i for i in plan.instruments]
    return [
        plan.style, _singer_tag(plan), *instruments, f"{plan.bpm} bpm",
        key_name(plan.tonic, plan.minor), f"{plan.beats_per_bar}/4", plan.mood,
    ]  # fmt: skip


def _tempo_word(bpm: int) -> str:
    return "slow" if bpm < 80 else "mid-tempo" if bpm < 112 else "fast"


def _listing(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def description(plan: SongPlan) -> str:
    """One or two sentences about the song, from the same facts as its tags."""
    rng = stream(plan.seed, plan.index, "description")
    key = key_name(plan.tonic, plan.minor)
    band = _listing(list(plan.instruments))
    tempo = _tempo_word(plan.bpm)
    if plan.voice is None:
        singer = rng.choice(("no vocals", "an instrumental without singing"))
        led = f"led by {plan.lead}"
    else:
        voice = voice_named(plan.voice)
        singer = f"{_article(voice.character)} {voice.character} {voice.gender} voice"
        led = f"sung by {singer}"
    return _phrase(plan, rng, key=key, band=band, tempo=tempo, singer=singer, led=led)


def _phrase(
    plan: SongPlan, rng: random.Random, *, key: str, band: str, tempo: str, singer: str, led: str
) -> str:
    mood, style, bpm = plan.mood, plan.style, plan.bpm
    waltz = " in 3/4" if plan.beats_per_bar == 3 else ""
    drums = "" if DRUMS in plan.instruments else " There are no drums."
    kind = "song" if plan.voice is not None else "instrumental"
    options = (
        f"{_article(mood).capitalize()} {mood} {style} {kind}{waltz} at {bpm} bpm in {key}, "
        f"{led}, with {band}.{drums}",
        f"A {tempo} {style} {kind}{waltz} with {band}. It feels {mood} and is {led}.",
        f"{mood.capitalize()} {style}{waltz}, {bpm} beats per minute: {band}, and {singer}.{drums}",
        f"This {tempo}, {mood} {style} track{waltz} in {key} is {led} over {band}.",
        f"{style.capitalize()} {kind}{waltz}, {mood} and {tempo}, {led}. "
        f"The band plays {band} at {bpm} bpm.",
    )
    return rng.choice(options)
