"""Speech recognisers of other people: from a folder, whole, window by window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel

from khala.audio import resample, write_audio
from khala.errors import AudioError, CheckpointError
from khala.evals import run_songs_eval
from khala.evals.transcriber import Transcriber, score_transcript

RATE_HZ = 44_100


@pytest.fixture
def ctc(transformers: Any, speech_sizes: dict[str, Any], tmp_path: Path) -> Path:
    """Write a tiny wav2vec 2.0 of random weights that spells with ten letters."""
    torch.manual_seed(0)
    folder = tmp_path / "ctc"
    folder.mkdir()
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"AEHILNORST"]
    vocab = tmp_path / "letters.json"
    vocab.write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    config = transformers.Wav2Vec2Config(vocab_size=len(letters), pad_token_id=0, **speech_sizes)
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(folder)
    transformers.Wav2Vec2CTCTokenizer(str(vocab)).save_pretrained(folder)
    return folder


@pytest.fixture
def whisper(transformers: Any, tmp_path: Path) -> Path:
    """Write a tiny Whisper of random weights that writes bytes."""
    torch.manual_seed(0)
    folder = tmp_path / "whisper"
    specials = ["<|endoftext|>", "<|startoftranscript|>"]
    vocab = {piece: index for index, piece in enumerate([*sorted(ByteLevel.alphabet()), *specials])}
    config = transformers.WhisperConfig(
        vocab_size=len(vocab), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_mel_bins=8, max_target_positions=24, pad_token_id=256,
        bos_token_id=256, eos_token_id=256, decoder_start_token_id=257,
        begin_suppress_tokens=None, suppress_tokens=None,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        max_length=20, pad_token_id=256, eos_token_id=256, decoder_start_token_id=257
    )
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    transformers.WhisperTokenizer(vocab=vocab, merges=[]).save_pretrained(folder)
    return folder


def song(seconds: float) -> np.ndarray:
    wave_CN = np.random.default_rng(0).normal(0, 0.1, (2, round(seconds * RATE_HZ)))
    return wave_CN.astype(np.float32)


def test_letters_are_heard_window_by_window(transformers: Any, ctc: Path) -> None:
    """Sound at the wrong rate, or a window skipped, is another transcript."""
    transcriber = Transcriber.from_folder(ctc)
    assert transcriber.name == "ctc"
    wave_CN = song(33.0)
    mono_N = resample(wave_CN.mean(axis=0, keepdims=True), RATE_HZ, 16_000)[0]
    model = transformers.AutoModelForCTC.from_pretrained(ctc).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(ctc)
    tokenizer = transformers.AutoTokenizer.from_pretrained(ctc)
    texts = []
    for window_N in (mono_N[:480_000], mono_N[480_000:]):
        inputs = extractor(window_N, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            ids = model(**inputs).logits.argmax(dim=-1)
        texts.append(tokenizer.batch_decode(ids, skip_special_tokens=True)[0])
    heard = transcriber.transcribe(wave_CN)
    assert heard
    assert heard == " ".join(texts).lower().replace("|", " ").split()
    assert isinstance(transcriber.transcribe(song(0.01)), list)
    with pytest.raises(AudioError):
        transcriber.transcribe(wave_CN[:, :0])


def test_whisper_writes_what_it_hears(whisper: Path) -> None:
    """The path is real: spectrum, encoder, decoder, bytes, words."""
    transcriber = Transcriber.from_folder(whisper)
    heard = transcriber.transcribe(song(2.0))
    assert heard == transcriber.transcribe(song(2.0))
    assert all(word == word.lower() and " " not in word for word in heard)


def test_words_are_counted_as_wrong_once(ctc: Path, tmp_path: Path) -> None:
    """A rate over the wrong number of words cannot be compared with anybody's."""
    lyrics = "[Verse]\nI see the light\nit isn't far"
    right = score_transcript(["i", "see", "the", "light", "it", "isn't", "far"], lyrics, [lyrics])
    assert (right["wer"], right["wer_shuffled"]) == (0.0, None)
    wrong = score_transcript(["i", "see", "a", "light", "far", "far"], lyrics, [lyrics, "a b c d"])
    assert wrong["wer"] == pytest.approx(3 / 7)
    assert wrong["wer_shuffled"] == pytest.approx(5 / 4)
    assert score_transcript(["la"], "", [lyrics])["wer"] is None
    folder = tmp_path / "songs"
    folder.mkdir()
    write_audio(folder / "one.wav", song(3.0), sample_rate_hz=RATE_HZ)
    (folder / "one.txt").write_text(lyrics)
    (row,) = run_songs_eval(folder, transcriber=ctc)["songs"]
    assert row["wer"] > 0
    assert row["words_heard"] >= 0


def test_a_folder_that_is_no_recogniser_is_one_clear_line(
    transformers: Any, ctc: Path, tmp_path: Path
) -> None:
    """A model that cannot write words must not fail at the first song, or score random ones."""
    encoder = tmp_path / "encoder"
    whole = transformers.AutoModelForCTC.from_pretrained(ctc)
    whole.wav2vec2.save_pretrained(encoder)
    for name in ("preprocessor_config.json", "tokenizer_config.json", "vocab.json"):
        (encoder / name).write_bytes((ctc / name).read_bytes())
    with pytest.raises(CheckpointError, match="missing"):
        Transcriber.from_folder(encoder)
    with pytest.raises(CheckpointError, match="no folder"):
        Transcriber.from_folder(tmp_path / "nowhere")
    (ctc / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError) as caught:
        Transcriber.from_folder(ctc)
    assert "\n" not in str(caught.value)
