"""A corpus small enough for a test: every "phoneme" is its own chord, every word two phonemes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from khala.audio import write_audio
from khala.backbone import Backbone, BackboneConfig
from khala.checkpoint import write_manifest
from khala.codec import Codec, CodecConfig, QuantizerConfig, SpectralConfig
from khala.corpus import find_items, prepare
from khala.nn import TrunkConfig
from khala.superres import SuperResConfig, SuperResolution
from khala.tokens import TextTokenizer, nano_layout

RATE_HZ = 44_100
CHORDS_HZ = {
    "a": (700.0, 1200.0),
    "i": (300.0, 2300.0),
    "u": (320.0, 800.0),
    "s": (5000.0, 6800.0),
}
WORDS = {"sa": ("s", "a"), "si": ("s", "i"), "ua": ("u", "a"), "iu": ("i", "u")}
PHONEME_S = 0.15

WriteCorpus = Callable[..., Path]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def words() -> dict[str, tuple[str, ...]]:
    """Return the pronunciation of every word that `write_corpus` sings."""
    return dict(WORDS)


@pytest.fixture
def write_corpus(tmp_path: Path) -> WriteCorpus:
    """Return a function that writes ``num_songs`` songs and gives the corpus's folder."""

    def write(
        num_songs: int = 8, *, words_per_song: int = 12, splits: tuple[str, ...] = ("train",)
    ) -> Path:
        folder = tmp_path / "corpus"
        folder.mkdir()
        (folder / "corpus.json").write_text(json.dumps({"sample_rate_hz": RATE_HZ, "seed": 0}))
        for index in range(num_songs):
            _write_song(folder, index, words_per_song, splits[index % len(splits)])
        return folder

    return write


def _write_song(folder: Path, index: int, num_words: int, split: str) -> None:
    generator = np.random.default_rng(index)
    sung = [str(word) for word in generator.choice(sorted(WORDS), num_words)]
    sung[: len(WORDS)] = sorted(WORDS)
    vocals, words, phonemes, at_s = [], [], [], 0.2
    vocals.append(np.zeros(int(0.2 * RATE_HZ)))
    for word in sung:
        words.append({"word": word, "start_s": at_s, "end_s": at_s + 2 * PHONEME_S + 0.05})
        for name in WORDS[word]:
            seconds = np.arange(int(PHONEME_S * RATE_HZ)) / RATE_HZ
            tones = [0.15 * np.sin(2 * np.pi * hz * seconds) for hz in CHORDS_HZ[name]]
            vocals.append(np.sum(tones, axis=0))
            phonemes.append({"phoneme": name, "start_s": at_s, "end_s": at_s + PHONEME_S})
            at_s += PHONEME_S
        rest_s = 0.35 if generator.random() < 0.3 else 0.05
        vocals.append(np.zeros(int(rest_s * RATE_HZ)))
        at_s += rest_s
    vocals_N = np.concatenate([*vocals, np.zeros(int(0.2 * RATE_HZ))])
    band_N = generator.normal(0, 0.01, vocals_N.size)
    song = folder / "songs" / f"{index:06d}"
    song.mkdir(parents=True)
    for name, wave_N in (("vocals", vocals_N), ("mix", vocals_N + band_N)):
        wave_CN = np.stack([wave_N, wave_N]).astype(np.float32)
        write_audio(song / f"{name}.wav", wave_CN, sample_rate_hz=RATE_HZ)
    truth = {
        "id": f"{index:06d}",
        "index": index,
        "split": split,
        "duration_s": vocals_N.size / RATE_HZ,
        "tags": ["tones", "120 bpm"],
        "description": "A few tones.",
        "lyrics": "[Verse 1]\n" + " ".join(sung) + "\n",
        "instrumental": False,
        "bpm": 120.0,
        "words": words,
        "phonemes": phonemes,
    }
    (song / "song.json").write_text(json.dumps(truth))


@dataclass(frozen=True, kw_only=True)
class WholeModel:
    """A tiny model folder, and the codes of the corpus it belongs to."""

    folder: Path
    corpus: Path
    codes: Path


@pytest.fixture
def whole_model(write_corpus: WriteCorpus, tmp_path: Path) -> WholeModel:
    """Write a corpus of six songs, an untrained model of four levels, and the corpus's codes."""
    splits = ("train", "train", "test", "test_voice", "train", "test")
    corpus = write_corpus(6, words_per_song=8, splits=splits)
    folder = tmp_path / "model"
    codec = _tiny_codec()
    codec.save(folder / "codec", dtype=torch.float32)
    layout = dataclasses.replace(nano_layout(), codebook_size=16, num_levels=4)
    trunk = TrunkConfig(
        width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_width=8, ffn_width=16
    )
    backbone = Backbone(BackboneConfig(trunk=trunk, layout=layout, max_positions=600))
    backbone.save(folder / "backbone")
    superres = SuperResolution(SuperResConfig(trunk=trunk, layout=layout, max_positions=600))
    superres.save(folder / "superres")
    TextTokenizer.bytes().save(folder / "tokenizer.json")
    write_manifest(folder)

    class Encoder:
        digest = codec.codes_digest()
        num_levels = 4
        codebook_size = 16

        def encode(self, wave_CN: np.ndarray) -> np.ndarray:
            return codec.encode(torch.from_numpy(wave_CN)[None])[0].numpy()

    prepare(find_items(corpus), tmp_path / "codes", Encoder)
    return WholeModel(folder=folder, corpus=corpus, codes=tmp_path / "codes")


def _tiny_codec() -> Codec:
    torch.manual_seed(0)
    config = CodecConfig(
        quantizer=QuantizerConfig(num_levels=4, codebook_size=16, latent_width=8),
        spectral=SpectralConfig(fine_width=8, coarse_width=8),
    )
    return Codec(config).eval()


@pytest.fixture
def speech_sizes() -> dict[str, object]:
    """Give the sizes of a wav2vec 2.0 or HuBERT that runs in milliseconds."""
    return {
        "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (5, 8),
        "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
    }  # fmt: skip


@pytest.fixture
def transformers() -> Any:
    """Return the optional library, or skip."""
    return pytest.importorskip("transformers")
