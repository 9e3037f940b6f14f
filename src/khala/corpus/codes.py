"""Prepared songs in memory: codes beside the texts that describe them.

Shape letters: Q levels, T frames.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from khala.corpus.prepare import FORMAT, sha256_file
from khala.corpus.timing import Section, Word
from khala.errors import CorpusError

__all__ = ["CodesDataset", "CodesExample", "open_codes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CodesExample:
    """One prepared song."""

    id: str
    split: str
    codes_QT: NDArray[np.uint16]
    tags: tuple[str, ...]
    description: str
    lyrics: str
    instrumental: bool
    language: str
    duration_s: float
    truth_path: Path | None
    sections: tuple[Section, ...] = ()
    words: tuple[Word, ...] = ()
    phonemes: tuple[Word, ...] = ()
    chords: tuple[Word, ...] = ()
    beats_s: tuple[float, ...] = ()

    @property
    def num_frames(self) -> int:
        """Length in frames."""
        return int(self.codes_QT.shape[1])


class CodesDataset:
    """Every prepared song, in the corpus's order."""

    def __init__(
        self,
        examples: list[CodesExample],
        *,
        num_levels: int,
        codebook_size: int,
        codec_digest: str,
    ) -> None:
        self.examples = examples
        self.num_levels = num_levels
        self.codebook_size = codebook_size
        self.codec_digest = codec_digest

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> CodesExample:
        return self.examples[index]

    def __iter__(self) -> Iterator[CodesExample]:
        return iter(self.examples)

    def split(self, name: str) -> list[CodesExample]:
        """Return the examples of one split; an unknown split is simply empty."""
        return [example for example in self.examples if example.split == name]


def open_codes(folder: Path | str, *, corpus_dir: Path | None = None) -> CodesDataset:
    """Verify every shard against the manifest and load it.

    Args:
        folder: written by `prepare`.
        corpus_dir: where the songs themselves are, for ``truth_path``; not needed to train.

    Raises:
        CorpusError: unfinished, damaged or missing shards; the message names the file.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    for name, wanted in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise CorpusError(f"a shard is missing: {path}")
        if sha256_file(path) != wanted:
            raise CorpusError(f"a shard is damaged: {path}; run khala prepare again")
    examples: list[CodesExample] = []
    for index in range(manifest["num_shards"]):
        examples += _shard(folder, f"shard-{index:05d}", corpus_dir)
    if len(examples) != manifest["num_songs"]:
        raise CorpusError(f"{folder} holds {len(examples)} songs of {manifest['num_songs']}")
    return CodesDataset(
        examples,
        num_levels=manifest["num_levels"],
        codebook_size=manifest["codebook_size"],
        codec_digest=manifest["codec"],
    )


def _manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest."""
    path = folder / "manifest.json"
    if not path.is_file():
        hint = "unfinished: run khala prepare again" if (folder / "plan.json").is_file() else ""
        raise CorpusError(f"{folder} holds no prepared codes (no manifest.json) {hint}".rstrip())
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise CorpusError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CorpusError(f"{path} has an unknown format; known: {FORMAT}")
    keys = {"files", "num_shards", "num_songs", "num_levels", "codebook_size", "codec"}
    if keys - manifest.keys():
        raise CorpusError(f"{path} lacks {', '.join(sorted(keys - manifest.keys()))}")
    return manifest


def _shard(folder: Path, name: str, corpus_dir: Path | None) -> list[CodesExample]:
    """Load one verified shard."""
    try:
        tensors = load_file(folder / f"{name}.safetensors")
        codes_QT, offsets = tensors["codes"], tensors["offsets"].tolist()
        text = (folder / f"{name}.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise CorpusError(f"cannot read {folder / name}: {error!r}") from error
    if len(lines) + 1 != len(offsets) or offsets[-1] != codes_QT.shape[1]:
        raise CorpusError(f"{folder / name} has {len(lines)} texts for {len(offsets) - 1} songs")
    return [
        CodesExample(
            id=line["id"],
            split=line["split"],
            codes_QT=codes_QT[:, start:end],
            tags=tuple(line["tags"]),
            description=line["description"],
            lyrics=line["lyrics"],
            instrumental=line["instrumental"],
            language=line["language"],
            duration_s=line["duration_s"],
            truth_path=None if corpus_dir is None else _truth(corpus_dir, line["folder"]),
            sections=tuple(Section(*part) for part in line["sections"]),
            words=tuple(Word(*word) for word in line["words"]),
            phonemes=tuple(Word(*sound) for sound in line.get("phonemes", ())),
            chords=tuple(Word(*chord) for chord in line.get("chords", ())),
            beats_s=tuple(line.get("beats_s", ())),
        )
        for line, start, end in zip(lines, offsets[:-1], offsets[1:], strict=True)
    ]


def _truth(corpus_dir: Path, name: str | None) -> Path | None:
    """Return where the ground truth of a song is, if the corpus has it."""
    path = corpus_dir / "songs" / str(name) / "song.json"
    return path if path.is_file() else None
