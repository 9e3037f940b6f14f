"""``khala eval songs``: whole songs, listened to by machine, one row each.

Either the songs of a folder, or songs generated from held-out requests beside their originals.

Shape letters, this file only: C channels, N samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from khala.audio import replacing
from khala.corpus import Corpus, CorpusSong, open_corpus
from khala.errors import ConfigError, CorpusError, KhalaError
from khala.evals import plots, report
from khala.evals.distances import Wave
from khala.evals.folders import failure, items_of, wanted_of
from khala.evals.generation import choose_requests, make_song
from khala.evals.listeners import Listeners, open_listeners, score_song
from khala.evals.recogniser import Recogniser, lrc_text, recogniser_errors, time_words
from khala.evals.scorer import Scorer
from khala.evals.sets import SetsOfSongs
from khala.evals.song_tables import check_claims, summarise
from khala.evals.tagger import tagger_errors
from khala.infer import Khala
from khala.song import SongRequest

NUM_GENERATED = 20
MOST_PICTURES = 24


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

    scorer: str | None = None
    """Somebody else's program that gives marks: "NAME: COMMAND" with {jsonl}, {list} or {folder}
    for the songs; see docs/evaluation.md."""

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
    scorer: str | None = None,
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
    listeners = open_listeners(recogniser, tagger, embedding, transcriber, scorer, in_sets=in_sets)

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
    _say_what_failed(result, listeners.scorer, on_message)
    apart = listeners.sets.distances()
    result["distances"] = apart["distances"]
    result["tables"] += apart["tables"]
    result["notes"] = [
        *([] if recogniser is None else [recogniser_errors(recogniser)]),
        *([] if tagger is None else [tagger_errors(tagger)]),
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
        if listeners.scorer is not None:
            listeners.scorer.add(wave_CN, rows[-1])
        if len(waves) < MOST_PICTURES:
            waves[item.name] = plots.beginning(wave_CN)
        on_message(f"{number} of {len(items)}: {item.name}")
    if reference is not None:
        failed += _hear_reference(reference, listeners.sets, on_message)
    if not rows:
        raise CorpusError(f"no song of {folder} can be scored: {failed[0]['error']}")
    return {**_summary({"songs": rows}, listeners.scorer), "failed": failed}, waves


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
        if listeners.scorer is not None:
            listeners.scorer.add(wave_CN, rows[-1])
            listeners.scorer.add(original_CN, originals[-1])
        listeners.sets.add_song(wave_CN)
        listeners.sets.add_reference(original_CN)
        waves[f"{song.id}  {shorten(request.prompt, 60, placeholder=' ...')}"] = plots.beginning(
            wave_CN
        )
    result = _summary({"generated": rows, "originals": originals}, listeners.scorer)
    result["checks"] = check_claims(result["means"]["generated"], rows)
    result["tables"].append(
        report.table("What part F asks for", ["claim", "measured", "holds"], result["checks"])
    )
    return result, waves


def _summary(groups: dict[str, list[dict[str, Any]]], scorer: Scorer | None) -> dict[str, Any]:
    """Return rows, means and tables, once the scorer has marked the last songs."""
    if scorer is not None:
        scorer.finish()
    return summarise(groups, () if scorer is None else scorer.marks)


def _say_what_failed(
    result: dict[str, Any], scorer: Scorer | None, on_message: report.OnMessage
) -> None:
    """Add a table of what could not be scored: files, and a scorer that gave no marks."""
    failed: list[dict[str, str]] = result.setdefault("failed", [])
    if scorer is not None and scorer.failure is not None:
        failed.append({"file": "--scorer", "error": scorer.failure})
    for one in failed:
        on_message(f"not scored: {one['file']}: {one['error']}")
    if failed:
        rows: list[list[report.Cell]] = [[one["file"], one["error"]] for one in failed]
        result["tables"].append(report.table("Not scored", ["file", "why"], rows))


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
