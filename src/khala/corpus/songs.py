"""Songs on disk with their ground truth: the layout that ``khala synth`` writes.

    DIR/corpus.json               written first: {"seed", "hours", "num_songs", "sample_rate_hz"}
    DIR/songs/000123/song.json    ground truth, written last: a folder without it is unfinished
    DIR/songs/000123/mix.flac     44.1 kHz stereo; beside it vocals.flac and band.flac with stems

Shape letters: C channels, N samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from khala.corpus.timing import Section, Word, sections_with_lyrics
from khala.errors import CorpusError

__all__ = ["HELD_OUT", "SPLITS", "Corpus", "CorpusSong", "open_corpus", "song_from_truth"]

HELD_OUT = ("test", "test_voice", "test_words")
"""Splits never trained on: other songs, another voice, other words and melodies."""

SPLITS = ("train", *HELD_OUT)
AUDIO_ENDINGS = (".flac", ".wav")
SAMPLE_RATE_HZ = 44_100
MAX_TRUTH_BYTES = 16 << 20

Wave = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusSong:
    """One song: where its sound is and what is known about it."""

    id: str
    """Unique in its corpus."""

    split: str
    """One of `SPLITS`: "train", or which kind of unseen song it is."""

    duration_s: float
    """Length of the mix."""

    tags: tuple[str, ...]
    """Short labels: style, mood, instruments."""

    description: str
    """One sentence in plain words; may be empty."""

    lyrics: str
    """Section tags and lines; empty when instrumental."""

    instrumental: bool
    """Nobody sings."""

    language: str
    """Language of the lyrics, as in "en"."""

    audio: dict[str, Path]
    """Path of "mix", and of the stems "vocals" and "band" where they were written."""

    truth_path: Path | None
    """The song.json this was read from; None for a user's own audio file."""

    sections: tuple[Section, ...] = ()
    """Sections with their words, where the ground truth has them."""

    words: tuple[Word, ...] = ()
    """Every sung word in time, where the ground truth has them."""

    phonemes: tuple[Word, ...] = ()
    """Every sung phoneme in time, likewise."""

    chords: tuple[Word, ...] = ()
    """Every chord in time, likewise."""

    beats_s: tuple[float, ...] = ()
    """When each beat falls, likewise."""

    def truth(self) -> dict[str, Any]:
        """Read everything known about the song: notes, words, phonemes, beats, chords.

        Raises:
            CorpusError: there is no ground truth, or it is damaged.
        """
        if self.truth_path is None:
            raise CorpusError(f"song {self.id} has no ground truth")
        return read_truth(self.truth_path)


class Corpus:
    """The songs of a folder, by split, with a reader of crops."""

    def __init__(
        self,
        folder: Path,
        songs: Sequence[CorpusSong],
        *,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        read_whole: Callable[[Path], Wave] | None = None,
    ) -> None:
        self.folder = folder
        self.songs = tuple(songs)
        self.sample_rate_hz = sample_rate_hz
        self._read_whole = read_whole

    def __len__(self) -> int:
        return len(self.songs)

    def split(self, name: str) -> list[CorpusSong]:
        """Return the songs of one split, in the corpus's order.

        Raises:
            CorpusError: no such split.
        """
        if name not in SPLITS:
            raise CorpusError(f"no split {name!r}: one of {', '.join(SPLITS)}")
        return [song for song in self.songs if song.split == name]

    def num_samples(self, song: CorpusSong, stem: str = "mix") -> int:
        """Return the length of a song in samples at the corpus's rate."""
        path = _stem_path(song, stem)
        if self._read_whole is not None:
            return int(self._read_whole(path).shape[1])
        return int(soundfile.info(path).frames)

    def read(self, song: CorpusSong, stem: str = "mix") -> Wave:
        """Return a whole song as wave_CN, float32, two channels."""
        path = _stem_path(song, stem)
        if self._read_whole is not None:
            return self._read_whole(path)
        return _read(path, 0, -1, self.sample_rate_hz)

    def read_mix(self, song: CorpusSong, start_s: float, duration_s: float) -> Wave:
        """Return ``duration_s`` seconds of the mix from ``start_s`` as wave_CN."""
        rate_hz = self.sample_rate_hz
        return self.read_crop(song, round(start_s * rate_hz), round(duration_s * rate_hz))

    def read_crop(self, song: CorpusSong, start: int, num_samples: int, stem: str = "mix") -> Wave:
        """Return exactly ``num_samples`` samples of a song or stem as wave_CN, two channels.

        Only the crop is decoded. A mono stem is given twice.

        Raises:
            CorpusError: the crop does not lie inside the song, or there is no such stem.
        """
        path = _stem_path(song, stem)
        if self._read_whole is not None:
            wave_CN = self._read_whole(path)[:, start : start + num_samples]
        else:
            wave_CN = _read(path, start, num_samples, self.sample_rate_hz)
        if start < 0 or wave_CN.shape[1] != num_samples:
            raise CorpusError(f"samples {start}..{start + num_samples} lie outside {path}")
        return wave_CN


def open_corpus(folder: Path | str) -> Corpus:
    """Open a corpus written by ``khala synth``, or any folder of audio (see `folders`).

    Songs that ``khala synth`` has not finished are left out.

    Raises:
        CorpusError: no song there, or something beside a song is damaged.
    """
    folder = Path(folder)
    head_path = folder / "corpus.json"
    if not head_path.is_file():
        from khala.corpus.folders import open_folder

        return open_folder(folder)
    head = _read_object(head_path)
    paths = sorted((folder / "songs").glob("*/song.json"))
    if not paths:
        raise CorpusError(f"{folder} holds no finished song")
    songs = [_song(path) for path in paths]
    return Corpus(folder, songs, sample_rate_hz=int(head.get("sample_rate_hz", SAMPLE_RATE_HZ)))


def read_truth(path: Path) -> dict[str, Any]:
    """Read one song.json.

    Raises:
        CorpusError: missing, not JSON, or unreasonably large.
    """
    return _read_object(path)


def _song(path: Path) -> CorpusSong:
    """Build a song from its ground truth and the audio files beside it."""
    audio = {
        stem: path.parent / f"{stem}{ending}"
        for stem in ("mix", "vocals", "band")
        for ending in AUDIO_ENDINGS
        if (path.parent / f"{stem}{ending}").is_file()
    }
    if "mix" not in audio:
        raise CorpusError(f"{path.parent} has a song.json but no mix")
    return song_from_truth(_read_object(path), str(path), audio=audio, truth_path=path)


def song_from_truth(
    truth: dict[str, Any], name: str, *, audio: dict[str, Path], truth_path: Path
) -> CorpusSong:
    """Build a song from its ground truth, which ``name`` names in errors.

    Raises:
        CorpusError: it is not the truth of a song.
    """
    try:
        song = CorpusSong(
            id=str(truth["id"]),
            split=str(truth["split"]),
            duration_s=float(truth["duration_s"]),
            tags=tuple(str(tag) for tag in truth["tags"]),
            description=str(truth["description"]),
            lyrics=str(truth["lyrics"]),
            instrumental=bool(truth["instrumental"]),
            language=str(truth.get("language", "en")),
            audio=audio,
            truth_path=truth_path,
            sections=sections_with_lyrics(truth.get("sections", []), str(truth["lyrics"])),
            words=_timed(truth, "words", "word"),
            phonemes=_timed(truth, "phonemes", "phoneme"),
            chords=_timed(truth, "chords", "name"),
            beats_s=tuple(float(beat_s) for beat_s in truth.get("beats", [])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorpusError(f"{name} is not the truth of a song: {error!r}") from error
    if song.split not in SPLITS:
        raise CorpusError(f"{name}: no split {song.split!r}; one of {', '.join(SPLITS)}")
    return song


def _timed(truth: dict[str, Any], kind: str, name: str) -> tuple[Word, ...]:
    """Return the words, phonemes or chords of a ground truth."""
    return tuple(
        Word(str(one[name]), float(one["start_s"]), float(one["end_s"]))
        for one in truth.get(kind, [])
    )


def _stem_path(song: CorpusSong, stem: str) -> Path:
    """Return where a stem is, or say that it is not there."""
    if stem not in song.audio:
        raise CorpusError(f"song {song.id} has no {stem}; it has {', '.join(sorted(song.audio))}")
    return song.audio[stem]


def _read(path: Path, start: int, num_samples: int, sample_rate_hz: int) -> Wave:
    """Decode part of a file at the corpus's rate as two channels."""
    try:
        wave_NC, rate_hz = soundfile.read(
            path, frames=num_samples, start=max(start, 0), dtype="float32", always_2d=True
        )
    except (soundfile.SoundFileError, OSError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error
    if rate_hz != sample_rate_hz or wave_NC.shape[1] not in (1, 2):
        raise CorpusError(
            f"{path} has {rate_hz} Hz and {wave_NC.shape[1]} channels; "
            f"a corpus has {sample_rate_hz} Hz and 1 or 2 channels"
        )
    wave_CN: Wave = np.ascontiguousarray(wave_NC.T)
    return wave_CN if wave_CN.shape[0] == 2 else np.repeat(wave_CN, 2, axis=0)


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object, or say what is wrong with it."""
    try:
        if path.stat().st_size > MAX_TRUTH_BYTES:
            raise CorpusError(f"{path} is larger than {MAX_TRUTH_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict):
        raise CorpusError(f"{path} must hold a JSON object")
    return document
