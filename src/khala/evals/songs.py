"""``khala eval songs``: whole songs from held-out requests, listened to by machine, one row each.

Shape letters, this file only: C channels, N samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from khala.corpus import Corpus, CorpusSong, open_corpus
from khala.errors import CorpusError, RequestError
from khala.evals import plots, report
from khala.evals.distances import Wave
from khala.evals.listening import listen, tempo_agrees
from khala.evals.prompts import request_of
from khala.evals.recogniser import Recogniser, edit_distance, pronounce
from khala.evals.tonality import same_key
from khala.infer import Khala
from khala.song import Song, SongRequest

HELD_OUT = ("test", "test_voice", "test_words")
DURATION_TOLERANCE = 0.10
NUM_SHUFFLES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SongsEval:
    """Arguments of ``khala eval songs``."""

    model: Path
    """Model folder, or "nano"."""

    corpus: Path
    """Corpus whose held-out songs are asked for."""

    out: Path | None = None
    """Folder for songs.json and songs.png."""

    songs: int = 20
    """How many."""

    recogniser: Path | None = None
    """Folder of a trained recogniser: adds phoneme error rates."""

    audio: Path | None = None
    """Folder for the songs as .khala files; those already there are scored, not made again."""

    seconds: float | None = None
    """Ask only for songs up to this length; None: any that the model can make."""

    levels: int = 64
    """Levels of every song."""

    seed: int = 0
    """Seed of the first song; the others follow."""

    device: str = "cpu"
    """Where the models run."""


class Maker(Protocol):
    """What this evaluation needs of a pipeline."""

    def check(self, request: SongRequest) -> None: ...

    def generate(self, request: SongRequest) -> Song: ...

    def decode(self, song: Song) -> Wave: ...


def run_songs_eval(
    model: Path,
    corpus: Path,
    out: Path | None = None,
    songs: int = 20,
    recogniser: Path | None = None,
    audio: Path | None = None,
    seconds: float | None = None,
    levels: int = 64,
    seed: int = 0,
    device: str = "cpu",
    on_message: report.OnMessage = report.ignore_messages,
) -> dict[str, Any]:
    """Generate songs from held-out requests and score them beside the originals.

    Raises:
        CorpusError: no held-out song is one the model can be asked for.
        CheckpointError: a model cannot be read.
    """
    arguments = dict(locals())
    arguments.pop("on_message")
    maker = Khala.from_pretrained(model, device=device)
    ear = None if recogniser is None else Recogniser.from_pretrained(recogniser)
    opened = open_corpus(corpus)
    asked = choose_requests(opened, maker, songs, seconds=seconds, levels=levels, seed=seed)
    if len(asked) < songs:
        on_message(f"{len(asked)} held-out songs can be asked for, not {songs}")
    result, waves = score_songs(maker, opened, asked, ear, audio, on_message)
    if out is not None:
        plots.save_spectrograms(out / "songs.png", waves, on_message=on_message)
    return report.finish("songs", result, arguments=arguments, out=out)


def choose_requests(
    corpus: Corpus,
    maker: Maker,
    num_songs: int,
    *,
    seconds: float | None = None,
    levels: int = 64,
    seed: int = 0,
) -> list[tuple[CorpusSong, SongRequest]]:
    """Return held-out songs, in turn from every split, with the requests made for them.

    Raises:
        CorpusError: there is none that the model can make.
    """
    by_split = [corpus.split(split) for split in HELD_OUT]
    longest = max(len(songs) for songs in by_split)
    asked: list[tuple[CorpusSong, SongRequest]] = []
    for song in (songs[at] for at in range(longest) for songs in by_split if at < len(songs)):
        if len(asked) == num_songs:
            break
        if seconds is not None and song.duration_s > seconds:
            continue
        request = replace(request_of(song, seed=seed + len(asked)), levels=levels)
        try:
            maker.check(request)
        except RequestError:
            continue
        asked.append((song, request))
    if not asked:
        raise CorpusError(f"{corpus.folder} has no held-out song that this model can be asked for")
    return asked


def score_songs(
    maker: Maker,
    corpus: Corpus,
    asked: Sequence[tuple[CorpusSong, SongRequest]],
    ear: Recogniser | None,
    audio: Path | None,
    on_message: report.OnMessage,
) -> tuple[dict[str, Any], dict[str, Wave]]:
    """Make and score every song and its original; also return the generated waves by title."""
    rows: list[dict[str, Any]] = []
    originals: list[dict[str, Any]] = []
    waves: dict[str, Wave] = {}
    for song, request in asked:
        started = time.monotonic()
        made = _make(maker, song, request, audio)
        wave_CN = maker.decode(made)
        on_message(f"{song.id}: {made.ended}, {time.monotonic() - started:.0f} s")
        truth = song.truth()
        row = _row(song, request, wave_CN, truth, asked, ear)
        rows.append({**row, "ended": made.ended})
        originals.append(_row(song, request, corpus.read(song), truth, asked, ear))
        waves[f"{song.id}  {request.prompt[:60]}"] = wave_CN
    return _summary(rows, originals), waves


def _make(maker: Maker, song: CorpusSong, request: SongRequest, audio: Path | None) -> Song:
    """Return the song for a request, from ``audio`` if it was made before for the same request."""
    path = None if audio is None else audio / f"{song.id}.khala"
    if path is not None and path.is_file():
        before = Song.load(path)
        if before.request == request:
            return before
    made = maker.generate(request)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path)
    return made


def _row(
    song: CorpusSong,
    request: SongRequest,
    wave_CN: Wave,
    truth: Mapping[str, Any],
    asked: Sequence[tuple[CorpusSong, SongRequest]],
    ear: Recogniser | None,
) -> dict[str, Any]:
    """Everything that is known about one song, as plain values."""
    heard = listen(wave_CN)
    bpm, key = truth.get("bpm"), truth.get("key")
    right = abs(heard.duration_s / request.duration_s - 1) <= DURATION_TOLERANCE
    row: dict[str, Any] = {
        "song": song.id,
        "split": song.split,
        "instrumental": song.instrumental,
        "wanted_s": request.duration_s,
        "duration_right": right,
        **asdict(heard),
        "wanted_bpm": bpm,
        "tempo_right": None,
        "tempo_right_octaves": None,
        "wanted_key": key,
        "key_right": None if key is None else same_key(heard.key, key),
        "faults": [*heard.faults(), *([] if right else ["duration"])],
    }
    if bpm is not None:
        row["tempo_right"] = tempo_agrees(heard.bpm, bpm, octaves=False)
        row["tempo_right_octaves"] = tempo_agrees(heard.bpm, bpm, octaves=True)
    if ear is not None:
        row.update(_words(song, wave_CN, asked, ear))
    return row


def _words(
    song: CorpusSong,
    wave_CN: Wave,
    asked: Sequence[tuple[CorpusSong, SongRequest]],
    ear: Recogniser,
) -> dict[str, Any]:
    """Error rate against the song's own lyrics, and the mean one against other songs' lyrics."""
    heard = ear.recognise(wave_CN)
    found: dict[str, Any] = {"phonemes_heard": len(heard), "per": None, "per_shuffled": None}
    if song.instrumental:
        return found
    wanted, unknown = pronounce(song.lyrics, ear.words)
    found["unknown_words"] = len(unknown)
    if not wanted:
        return found
    found["phonemes_wanted"] = len(wanted)
    found["per"] = edit_distance(heard, wanted) / len(wanted)
    others = []
    for other, _ in asked:
        words = pronounce(other.lyrics, ear.words)[0] if other.lyrics != song.lyrics else []
        if words:
            others.append((abs(len(words) - len(wanted)), other.id, words))
    nearest = sorted(others)[:NUM_SHUFFLES]
    if nearest:
        rates = [edit_distance(heard, words) / len(words) for _, _, words in nearest]
        found["per_shuffled"] = float(np.mean(rates))
    return found


def _summary(rows: list[dict[str, Any]], originals: list[dict[str, Any]]) -> dict[str, Any]:
    names = [
        "song",
        "split",
        "wanted_s",
        "duration_s",
        "loudness_lufs",
        "silence",
        "flux",
        "longest_still_s",
        "loop",
        "wanted_bpm",
        "bpm",
        "tempo_right",
        "per",
        "per_shuffled",
    ]
    table = [
        [*(row.get(name) for name in names), ", ".join(row["faults"]) or "none"] for row in rows
    ]
    means = {"generated": _means(rows), "originals": _means(originals)}
    keys = list(means["generated"])
    ours = means["generated"]
    checks: list[list[report.Cell]] = [
        ["songs without a fault", ours["no_fault"], ours["no_fault"] == 1.0],
        ["duration within 10 %", ours["duration_right"], ours["duration_right"] == 1.0],
    ]
    if ours["tempo_right"] is not None:
        checks.append(["tempo within 5 %", ours["tempo_right"], ours["tempo_right"] > 0.5])
        chance = _chance_of_tempo(rows)
        checks.append(["of tempi that other songs asked for (chance)", chance, None])
    gap, error = ours["per_gap"], ours["per_gap_standard_error"]
    if gap is not None and error is not None:
        ratio = gap / max(error, 1e-12)
        checks.append(["shuffled minus right PER, in standard errors", ratio, ratio > 3])
    return {
        "songs": rows,
        "originals": originals,
        "means": means,
        "checks": checks,
        "tables": [
            report.table("Songs from held-out requests", [*names, "faults"], table),
            report.table(
                "Means", ["of", *keys], [[name, *mean.values()] for name, mean in means.items()]
            ),
            report.table("What part F asks for", ["claim", "measured", "holds"], checks),
        ],
    }


def _chance_of_tempo(rows: list[dict[str, Any]]) -> float | None:
    """Return how often a song's tempo is the one that another song was asked for."""
    agree = [
        tempo_agrees(one["bpm"], other["wanted_bpm"], octaves=False)
        for one in rows
        for other in rows
        if one is not other and other["wanted_bpm"] is not None
    ]
    return float(np.mean(agree)) if agree else None


def _means(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Average what can be averaged; None where no song has it."""
    found: dict[str, float | None] = {
        "no_fault": float(np.mean([not row["faults"] for row in rows]))
    }
    for name in (
        "duration_right",
        "tempo_right",
        "tempo_right_octaves",
        "key_right",
        "loudness_lufs",
        "flux",
        "longest_still_s",
        "loop",
        "per",
        "per_shuffled",
    ):
        values = [row[name] for row in rows if row.get(name) is not None]
        finite = [float(value) for value in values if math.isfinite(value)]
        found[name] = float(np.mean(finite)) if finite else None
    gaps = np.array(
        [
            row["per_shuffled"] - row["per"]
            for row in rows
            if row.get("per") is not None and row.get("per_shuffled") is not None
        ]
    )
    found["per_gap"] = float(gaps.mean()) if gaps.size else None
    enough = gaps.size >= 2
    found["per_gap_standard_error"] = (
        float(gaps.std(ddof=1)) / math.sqrt(gaps.size) if enough else None
    )
    return found
