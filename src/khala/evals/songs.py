"""``khala eval songs``: whole songs, listened to by machine, one row each.

Either the songs of a folder, or songs generated from held-out requests beside their originals.

Shape letters, this file only: C channels, N samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from khala.audio import replacing
from khala.corpus import Corpus, CorpusSong, open_corpus
from khala.errors import ConfigError, CorpusError, KhalaError
from khala.evals import plots, report
from khala.evals.distances import Wave
from khala.evals.folders import failure, items_of, wanted_of
from khala.evals.generation import choose_requests, make_song
from khala.evals.listeners import Listeners, open_listeners, score_song
from khala.evals.listening import tempo_agrees
from khala.evals.recogniser import Recogniser, lrc_text, own_errors, time_words
from khala.evals.sets import SetsOfSongs
from khala.evals.tagger import how_well_it_hears
from khala.infer import Khala
from khala.song import SongRequest

NUM_GENERATED = 20
MOST_PICTURES = 24
MEANS = (
    "duration_right",
    "tempo_right",
    "tempo_right_octaves",
    "key_right",
    "singing_right",
    "instruments_precision",
    "instruments_recall",
    "style_right",
    "loudness_lufs",
    "true_peak_dbtp",
    "flux",
    "beat",
    "key_clarity",
    "longest_still_s",
    "loop",
    "recurrence",
    "per",
    "per_shuffled",
    "skipped_shuffled",
    "wer",
    "wer_shuffled",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SongsEval:
    """Arguments of ``khala eval songs``."""

    folder: Path | None = None
    """Folder of songs to score: audio files, or a demo corpus. Or give --model and --corpus."""

    model: Path | None = None
    """Model folder, or "nano": generate songs from held-out requests and score those."""

    corpus: Path | None = None
    """Corpus whose held-out songs are asked for."""

    out: Path | None = None
    """Folder for songs.json, songs.png, and songs.html with tables, pictures and sounds."""

    songs: int | None = None
    """How many at most; none given: all of a folder, 20 to be generated."""

    recogniser: Path | None = None
    """Folder of a trained recogniser: adds phoneme error rates, and whether somebody sings."""

    transcriber: Path | None = None
    """Folder of a Whisper, wav2vec 2.0 or like speech recogniser for transformers: adds word error
    rates."""

    tagger: Path | None = None
    """Folder of a trained tagger: adds the instruments and the style that are heard."""

    reference: Path | None = None
    """Folder of songs to measure the whole set's distance from; needs --tagger or --embedding.
    Generated songs are measured from their originals."""

    embedding: Path | None = None
    """Folder of a CLAP, wav2vec or other encoder for transformers: distances by it too."""

    lrc: Path | None = None
    """Folder for .lrc files: when each word of the lyrics is sung; needs --recogniser."""

    audio: Path | None = None
    """Folder for generated songs as .khala files; those already there are not made again."""

    seconds: float | None = None
    """Ask only for songs up to this length; None: any that the model can make."""

    levels: int = 64
    """Levels of every generated song."""

    seed: int = 0
    """Seed of the first generated song; the others follow."""

    device: str = "cpu"
    """Where the models run."""


def run_songs_eval(
    folder: Path | None = None,
    model: Path | None = None,
    corpus: Path | None = None,
    out: Path | None = None,
    songs: int | None = None,
    recogniser: Path | None = None,
    transcriber: Path | None = None,
    tagger: Path | None = None,
    reference: Path | None = None,
    embedding: Path | None = None,
    lrc: Path | None = None,
    audio: Path | None = None,
    seconds: float | None = None,
    levels: int = 64,
    seed: int = 0,
    device: str = "cpu",
    on_message: report.OnMessage = report.ignore_messages,
) -> dict[str, Any]:
    """Listen to songs: those of a folder, or generated ones beside their originals.

    Raises:
        ConfigError: neither a folder nor a model with a corpus, or both.
        CorpusError: no song to score, or no held-out one that the model can be asked for.
        CheckpointError: a model cannot be read.
    """
    arguments = dict(locals())
    arguments.pop("on_message")
    _check(SongsEval(**arguments))
    in_sets = folder is None or reference is not None
    listeners = open_listeners(recogniser, tagger, embedding, transcriber, in_sets=in_sets)

    def keep_times(name: str, wave_CN: Wave, lyrics: str) -> None:
        if lrc is not None and listeners.ear is not None and lyrics:
            _write_lrc(lrc / name, wave_CN, lyrics, listeners.ear, on_message)

    if folder is not None:
        result, waves = _score_folder(folder, songs, reference, listeners, keep_times, on_message)
    else:
        assert model is not None
        assert corpus is not None
        maker, opened = Khala.from_pretrained(model, device=device), open_corpus(corpus)
        most = NUM_GENERATED if songs is None else songs
        asked = choose_requests(opened, maker, most, seconds=seconds, levels=levels, seed=seed)
        if len(asked) < most:
            on_message(f"{len(asked)} held-out songs can be asked for, not {most}")
        result, waves = _score_generated(
            maker, opened, asked, audio, listeners, keep_times, on_message
        )
    apart = listeners.sets.distances()
    result["distances"] = apart["distances"]
    result["tables"] += apart["tables"]
    result["notes"] = [
        *([] if recogniser is None else [own_errors(recogniser)]),
        *([] if tagger is None else [how_well_it_hears(tagger)]),
        *apart["notes"],
    ]
    return report.finish(
        "songs",
        result,
        arguments=arguments,
        out=out,
        draw=lambda path: plots.save_spectrograms(path, waves, on_message=on_message),
        sounds=waves,
    )


def _check(asked: SongsEval) -> None:
    """Refuse arguments that contradict each other."""
    folder, embeds = asked.folder, asked.tagger or asked.embedding
    if (folder is None) == (asked.model is None) or (asked.model is None) != (asked.corpus is None):
        raise ConfigError("give a folder of songs, or --model and --corpus to generate them")
    if asked.songs is not None and asked.songs < 1:
        raise ConfigError(f"--songs is {asked.songs}: at least 1")
    if asked.lrc is not None and asked.recogniser is None:
        raise ConfigError("--lrc needs --recogniser: it hears when words are sung")
    if asked.reference is not None and folder is None:
        raise ConfigError("--reference is for a folder: generated songs have their originals")
    if asked.reference is not None and embeds is None:
        raise ConfigError("--reference needs --tagger or --embedding: songs are compared by them")
    if asked.embedding is not None and folder is not None and asked.reference is None:
        raise ConfigError("--embedding needs --reference: a folder to measure the distance from")


def _score_folder(
    folder: Path,
    most: int | None,
    reference: Path | None,
    listeners: Listeners,
    keep_times: Callable[[str, Wave, str], None],
    on_message: report.OnMessage,
) -> tuple[dict[str, Any], dict[str, Wave]]:
    """Score every song of a folder; a file that cannot be read is named and left out."""
    items, failed = items_of(folder)
    items = items[:most]
    lyrics = [item.wanted.lyrics for item in items]
    rows, waves = [], dict[str, Wave]()
    for number, item in enumerate(items, start=1):
        try:
            wave_CN = item.read()
        except KhalaError as error:
            failed.append(failure(folder, item.name, error))
            continue
        keep_times(str(Path(item.name).with_suffix(".lrc")), wave_CN, item.wanted.lyrics)
        row = score_song(wave_CN, item.wanted, lyrics, listeners)
        listeners.sets.add_song(wave_CN)
        rows.append({"song": item.name, "split": item.split, **row})
        if len(waves) < MOST_PICTURES:
            waves[item.name] = plots.beginning(wave_CN)
        on_message(f"{number} of {len(items)}: {item.name}")
    if reference is not None:
        failed += _hear_reference(reference, listeners.sets, on_message)
    for one in failed:
        on_message(f"not scored: {one['file']}: {one['error']}")
    if not rows:
        raise CorpusError(f"no song of {folder} can be scored: {failed[0]['error']}")
    result = _summary({"songs": rows})
    result["failed"] = failed
    if failed:
        result["tables"].append(
            report.table(
                "Not scored", ["file", "why"], [[one["file"], one["error"]] for one in failed]
            )
        )
    return result, waves


def _hear_reference(
    folder: Path, sets: SetsOfSongs, on_message: report.OnMessage
) -> list[dict[str, str]]:
    """Hear every song of the reference; return what cannot be read."""
    items, failed = items_of(folder)
    on_message(f"{len(items)} songs of the reference")
    for item in items:
        try:
            sets.add_reference(item.read())
        except KhalaError as error:
            failed.append(failure(folder, item.name, error))
    return [{**one, "file": f"reference: {one['file']}"} for one in failed]


def _score_generated(
    maker: Khala,
    corpus: Corpus,
    asked: Sequence[tuple[CorpusSong, SongRequest]],
    audio: Path | None,
    listeners: Listeners,
    keep_times: Callable[[str, Wave, str], None],
    on_message: report.OnMessage,
) -> tuple[dict[str, Any], dict[str, Wave]]:
    """Make every song that is asked for, and score it and the original it was asked after."""
    lyrics = [song.lyrics for song, _ in asked]
    rows, originals, waves = [], [], dict[str, Wave]()
    for song, request in asked:
        started = time.monotonic()
        made = make_song(maker, song, request, audio)
        wave_CN = maker.decode(made)
        on_message(f"{song.id}: {made.ended}, {time.monotonic() - started:.0f} s")
        keep_times(f"{song.id}.lrc", wave_CN, song.lyrics)
        original_CN, about = corpus.read(song), {"song": song.id, "split": song.split}
        # a request for "bass" is not held to the upright bass of the original
        wanted = replace(wanted_of(song), instruments=None, style=None, prompt=request.prompt)
        row = {**about, **score_song(wave_CN, wanted, lyrics, listeners)}
        rows.append({**row, "ended": made.ended})
        originals.append({**about, **score_song(original_CN, wanted, lyrics, listeners)})
        listeners.sets.add_song(wave_CN)
        listeners.sets.add_reference(original_CN)
        waves[f"{song.id}  {request.prompt[:60]}"] = plots.beginning(wave_CN)
    result = _summary({"generated": rows, "originals": originals})
    result["checks"] = _checks(result["means"]["generated"], rows)
    result["tables"].append(
        report.table("What part F asks for", ["claim", "measured", "holds"], result["checks"])
    )
    return result, waves


def _write_lrc(
    path: Path, wave_CN: Wave, lyrics: str, ear: Recogniser, on_message: report.OnMessage
) -> None:
    """Write when each word of a song is sung, or say why that is not known."""
    try:
        text = lrc_text(time_words(wave_CN, lyrics, ear))
    except ValueError as error:
        on_message(f"no {path.name}: {error}")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _summary(groups: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the rows of every group ("songs" or "generated" first), their means and tables."""
    rows, *others = groups.values()
    names = [
        "song",
        "duration_s",
        "loudness_lufs",
        "true_peak_dbtp",
        "bpm",
        "wanted_bpm",
        "tempo_right",
        "key",
        "key_right",
        "singing_right",
        "loop",
        "recurrence",
        "per",
        "per_shuffled",
        "wer",
        "wer_shuffled",
    ]
    names = [name for name in names if any(row.get(name) is not None for row in rows)]
    table = [
        [*(row.get(name) for name in names), ", ".join(row["faults"]) or "none"] for row in rows
    ]
    means = {name: _means(group) for name, group in groups.items()}
    measured = [[key, *(mean[key] for mean in means.values())] for key in _means(rows)]
    return {
        "songs": rows,
        **({"originals": others[0]} if others else {}),
        "means": means,
        "tables": [
            report.table("Songs", [*names, "faults"], table),
            *_what_plays(rows),
            report.table(
                "Means",
                ["of", *means],
                [row for row in measured if any(cell is not None for cell in row[1:])],
            ),
        ],
    }


def _what_plays(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a table of instruments and styles, where a tagger listened."""
    if "instruments_heard" not in rows[0]:
        return []
    names = ("instruments_precision", "instruments_recall", "style_heard", "wanted_style")
    table: list[list[report.Cell]] = [
        [
            row["song"],
            ", ".join(row["instruments_heard"]) or "none",
            ", ".join(row["wanted_instruments"] or ()) or None,
            *(row[name] for name in names),
        ]
        for row in rows
    ]
    columns = ["song", "heard", "wanted", "precision", "recall", "style", "wanted style"]
    return [report.table("What plays", columns, table)]


def _checks(ours: dict[str, float | None], rows: list[dict[str, Any]]) -> list[list[report.Cell]]:
    """Return what is claimed of generated songs, what was measured, and whether it holds."""
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
    return checks


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
    for name in MEANS:
        values = [float(row[name]) for row in rows if row.get(name) is not None]
        finite = [value for value in values if math.isfinite(value)]
        found[name] = float(np.mean(finite)) if finite else None
    for name in ("words_skipped", "phonemes_repeated"):
        of = {"words_skipped": "words", "phonemes_repeated": "phonemes_wanted"}[name]
        total = sum(row.get(of, 0) for row in rows)
        count = sum(row.get(name, 0) for row in rows)
        found[f"{name}_share"] = count / total if total else None
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
