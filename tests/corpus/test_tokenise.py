"""From a folder of songs to codes, with a real codec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from khala.codec import Codec
from khala.corpus import SongLimits, open_codes, open_corpus, tokenise_corpus
from khala.errors import CheckpointError
from khala.recipes import codec_debug

Make = Callable[[Path, int], Path]


def test_codes_are_the_codecs(tmp_path: Path, make_corpus: Make) -> None:
    """Codes that the shipped codec would not give decode to another song."""
    torch.manual_seed(0)
    Codec(codec_debug().task.codec).save(tmp_path / "model" / "codec")
    corpus_dir = make_corpus(tmp_path / "corpus", 2)
    limits = SongLimits(min_s=0.3)
    tokenise_corpus(corpus_dir, tmp_path / "model", tmp_path / "codes", limits=limits)
    codes = open_codes(tmp_path / "codes")
    codec = Codec.from_pretrained(tmp_path / "model")
    for song, example in zip(open_corpus(corpus_dir).songs, codes, strict=True):
        wave_BCN = torch.from_numpy(open_corpus(corpus_dir).read(song))[None]
        np.testing.assert_array_equal(example.codes_QT, codec.encode(wave_BCN)[0].numpy())
    songs = corpus_dir / "songs"
    report = tokenise_corpus(songs, tmp_path / "model", tmp_path / "own", limits=limits)
    assert report.num_songs == len(open_codes(tmp_path / "own")) == 4
    assert report.unused == ("000000/song.json", "000001/song.json")
    with pytest.raises(CheckpointError):
        tokenise_corpus(corpus_dir, tmp_path / "nothing", tmp_path / "codes")
