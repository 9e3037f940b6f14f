"""Songs of any folder, ready to be scored: ours or anybody's.

Beside ``song.wav`` (or flac, mp3, ogg, opus) may stand what was asked for: the ``song.khala`` that
``khala generate`` writes, or ``song.json`` and ``song.txt`` as for training (`khala.corpus`). A
demo corpus brings its ground truth. A file that cannot be read costs itself and no other.

Shape letters, this file only: C channels, N samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from khala.audio import read_audio
from khala.corpus import Corpus, CorpusSong, open_corpus
from khala.corpus.folders import AUDIO_ENDINGS, describe_file
from khala.errors import CorpusError, KhalaError
from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.wanted import Wanted
from khala.song import Song

__all__ = ["Item", "failure", "items_of", "wanted_of"]

LONGEST_S = 1200.0
"""A file is decoded as a whole: 20 minutes take half a gigabyte."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One song that can be scored."""

    name: str
    """Its file's name in the folder, or its id in the corpus."""

    wanted: Wanted
    """What it was asked to be."""

    read: Callable[[], Wave]
    """Returns the wave [2, N]; KhalaError if that is not possible."""

    split: str = ""
    """Of a corpus: which kind of song it is."""


def items_of(folder: Path) -> tuple[list[Item], list[dict[str, str]]]:
    """Return the songs of a folder in order, and "file" and "error" of what cannot be scored.

    Raises:
        CorpusError: no such folder, or no song in it at all.
    """
    if not folder.is_dir():
        raise CorpusError(f"there is no folder {folder}")
    if (folder / "corpus.json").is_file():
        corpus = open_corpus(folder)
        return [_of_corpus(corpus, song) for song in corpus.songs], []
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sounds = [path for path in paths if path.suffix.lower() in AUDIO_ENDINGS]
    if not sounds:
        raise CorpusError(f"{folder} holds no audio file ({', '.join(sorted(AUDIO_ENDINGS))})")
    items, failed = [], []
    for path in sounds:
        name = path.relative_to(folder).as_posix()
        try:
            items.append(_of_file(path, name))
        except KhalaError as error:
            failed.append(failure(folder, name, error))
    with_sound = {path.with_suffix("") for path in sounds}
    for path in paths:
        if path.suffix == ".txt" and path.with_suffix("") not in with_sound:
            name = path.relative_to(folder).as_posix()
            failed.append({"file": name, "error": "lyrics without a song of the same name"})
    return items, failed


def failure(folder: Path, name: str, error: KhalaError) -> dict[str, str]:
    """Return why a file cannot be scored, without where the folder is on this machine."""
    return {"file": name, "error": str(error).replace(f"{folder}/", "")}


def wanted_of(corpus_song: CorpusSong) -> Wanted:
    """Return what a corpus knows of its own song."""
    truth = {} if corpus_song.truth_path is None else corpus_song.truth()
    prompt = ", ".join((*corpus_song.tags, corpus_song.description))
    read = Wanted.of_prompt(prompt)
    return Wanted(
        duration_s=corpus_song.duration_s,
        bpm=truth.get("bpm", read.bpm),
        key=truth.get("key", read.key),
        instrumental=corpus_song.instrumental,
        lyrics=corpus_song.lyrics,
        instruments=tuple(truth["instruments"]) if "instruments" in truth else None,
        style=truth.get("style"),
        prompt=prompt,
    )


def _of_corpus(corpus: Corpus, song: CorpusSong) -> Item:
    return Item(
        name=song.id, split=song.split, wanted=wanted_of(song), read=lambda: corpus.read(song)
    )


def _of_file(path: Path, name: str) -> Item:
    """Describe one file by what stands beside it."""
    beside = path.with_suffix(".khala")
    if beside.is_file():
        request = Song.load(beside).request
        wanted = Wanted.of_prompt(
            request.prompt,
            lyrics=request.lyrics,
            instrumental=request.instrumental,
            duration_s=request.duration_s,
        )
    else:
        song = describe_file(path, name)
        says_who_sings = path.with_suffix(".json").is_file() or bool(song.lyrics)
        wanted = Wanted.of_prompt(
            ", ".join((*song.tags, song.description)),
            lyrics=song.lyrics,
            instrumental=song.instrumental if says_who_sings else None,
        )

    def read() -> Wave:
        return read_audio(path, sample_rate_hz=SAMPLE_RATE_HZ, max_duration_s=LONGEST_S)

    return Item(name=name, wanted=wanted, read=read)
