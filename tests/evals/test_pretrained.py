"""Embeddings of other people's models: from a folder, whole, and without running its code."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from khala.audio import resample
from khala.errors import AudioError, CheckpointError, ConfigError
from khala.evals.pretrained import PretrainedEmbedding

RATE_HZ = 44_100


@pytest.fixture
def encoder(transformers: Any, speech_sizes: dict[str, Any], tmp_path: Path) -> Path:
    """Write a tiny wav2vec 2.0 of random weights."""
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(**speech_sizes)
    folder = tmp_path / "encoder"
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(folder)
    return folder


def song(seconds: float) -> np.ndarray:
    wave_CN = np.random.default_rng(0).normal(0, 0.1, (2, round(seconds * RATE_HZ)))
    return wave_CN.astype(np.float32)


def test_an_encoder_is_heard_window_by_window(transformers: Any, encoder: Path) -> None:
    """The last hidden state at the model's own rate: a wrong rate is a song two octaves off."""
    embedding = PretrainedEmbedding.from_folder(encoder)
    assert embedding.name == "encoder"
    wave_CN = song(14.0)
    mono_N = resample(wave_CN.mean(axis=0, keepdims=True), RATE_HZ, 16_000)[0]
    model = transformers.AutoModel.from_pretrained(encoder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(encoder)
    slowly = []
    for start in (0, mono_N.size - 160_000):
        inputs = extractor(
            mono_N[start : start + 160_000], sampling_rate=16_000, return_tensors="pt"
        )
        with torch.inference_mode():
            slowly.append(model(**inputs).last_hidden_state[0].mean(dim=0).numpy())
    found = embedding.embed(wave_CN)
    assert np.allclose(found, np.mean(slowly, axis=0), atol=1e-5)
    assert np.array_equal(found, embedding.embed(wave_CN))
    assert np.isfinite(embedding.embed(wave_CN[:1, :20])).all()
    assert np.isfinite(embedding.embed(0 * wave_CN)).all()
    with pytest.raises(AudioError):
        embedding.embed(wave_CN[:, :0])


def test_clap_gives_its_audio_projection(transformers: Any, tmp_path: Path) -> None:
    """CLAP draws a random part of long sounds: whole windows only, or a score is a lottery."""
    torch.manual_seed(0)
    audio = {
        "spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 8, "hidden_size": 16,
        "depths": [1, 1], "num_attention_heads": [1, 2], "window_size": 4, "patch_size": 4,
        "patch_stride": [4, 4], "num_hidden_layers": 2,
    }  # fmt: skip
    text = {
        "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 16,
    }  # fmt: skip
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=10)
    folder = tmp_path / "clap"
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        feature_size=16, max_length_s=2, truncation="rand_trunc"
    ).save_pretrained(folder)
    embedding = PretrainedEmbedding.from_folder(folder)
    found = embedding.embed(song(7.5))
    assert found.shape == (10,)
    assert np.array_equal(found, embedding.embed(song(7.5)))
    assert not np.allclose(found, embedding.embed(np.cumsum(song(7.5), axis=1) * 0.01))


def test_mert_is_read_as_the_hubert_it_is(
    transformers: Any, speech_sizes: dict[str, Any], tmp_path: Path
) -> None:
    """Its folder asks to run code of its own: its tensors are read without, or it is refused."""
    torch.manual_seed(0)
    config = transformers.HubertConfig(**speech_sizes)
    folder = tmp_path / "mert"
    transformers.HubertModel(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=24_000).save_pretrained(folder)
    wanted = PretrainedEmbedding.from_folder(folder).embed(song(3.0))
    path = folder / "config.json"
    about = json.loads(path.read_text())
    about |= {
        "model_type": "mert_model",
        "architectures": ["MERTModel"],
        "auto_map": {"AutoModel": "modeling_MERT.MERTModel"},
        "attention_relax": -1.0,
        "deepnorm": False,
        "feature_extractor_cqt": False,
    }
    path.write_text(json.dumps(about))
    (folder / "modeling_MERT.py").write_text("raise SystemExit('was run')")
    assert np.array_equal(PretrainedEmbedding.from_folder(folder).embed(song(3.0)), wanted)
    as_pickled(folder)
    assert np.array_equal(PretrainedEmbedding.from_folder(folder).embed(song(3.0)), wanted)
    for option in ("deepnorm", "feature_extractor_cqt"):
        path.write_text(json.dumps({**about, option: True}))
        with pytest.raises(CheckpointError, match=option):
            PretrainedEmbedding.from_folder(folder)


def as_pickled(folder: Path, parts: int = 1) -> None:
    """Turn a folder's safetensors into files of torch.save, with the names of older versions."""
    tensors = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    (folder / "model.safetensors").unlink()
    if parts == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    where = {name: f"part-{place % parts}.bin" for place, name in enumerate(sorted(tensors))}
    for file in set(where.values()):
        torch.save({name: tensors[name] for name in where if where[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("parts", [1, 2])
def test_older_weights_are_read_without_unpickling(encoder: Path, parts: int) -> None:
    """MERT and many others were published before safetensors."""
    wanted = PretrainedEmbedding.from_folder(encoder).embed(song(2.0))
    as_pickled(encoder, parts)
    assert np.array_equal(PretrainedEmbedding.from_folder(encoder).embed(song(2.0)), wanted)
    if parts == 2:
        index = encoder / "pytorch_model.bin.index.json"
        index.write_text(index.read_text().replace("part-0", "../part-0"))
        with pytest.raises(CheckpointError, match="not in its folder"):
            PretrainedEmbedding.from_folder(encoder)


def test_a_hostile_pickle_is_not_run(encoder: Path, tmp_path: Path) -> None:
    """transformers itself would refuse most of them; we unpickle none."""

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (encoder / "model.safetensors").unlink()
    torch.save({"weight": Hostile()}, encoder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="nothing was run"):
        PretrainedEmbedding.from_folder(encoder)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_does_not_take_its_own_features_is_one_line(
    transformers: Any, encoder: Path
) -> None:
    """A folder put together from two models must be named, not end in a traceback."""
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=2).save_pretrained(encoder)
    embedding = PretrainedEmbedding.from_folder(encoder)
    with pytest.raises(CheckpointError, match="encoder cannot embed a song") as caught:
        embedding.embed(song(1.0))
    assert "\n" not in str(caught.value)


def test_the_encoder_half_of_a_pair_is_enough(transformers: Any, tmp_path: Path) -> None:
    """Whisper's decoder wants words; only its ear is asked."""
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=30, d_model=12, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8,
        max_source_positions=100, max_target_positions=8, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    folder = tmp_path / "whisper"
    transformers.WhisperModel(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=2).save_pretrained(folder)
    assert PretrainedEmbedding.from_folder(folder).embed(song(3.0)).shape == (12,)


def test_a_model_that_is_not_whole_is_refused(encoder: Path) -> None:
    """Missing tensors are filled with noise by default, and noise embeds songs too."""
    path = encoder / "model.safetensors"
    tensors = load_file(path)
    name = sorted(name for name in tensors if "encoder.layers" in name)[0]
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        PretrainedEmbedding.from_folder(encoder)
    path.write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="cannot read"):
        PretrainedEmbedding.from_folder(encoder)


@pytest.mark.parametrize("content", ["nothing", "empty", "its own code"])
def test_what_is_no_model_is_one_clear_line(
    transformers: Any, tmp_path: Path, content: str
) -> None:
    """A folder can name any class and any code: neither is followed."""
    del transformers
    folder = tmp_path / "model"
    if content != "nothing":
        folder.mkdir()
    if content == "its own code":
        (folder / "evil.py").write_text("raise SystemExit('ran')\n")
        about = {"model_type": "mert", "auto_map": {"AutoModel": "evil.Evil"}}
        (folder / "config.json").write_text(json.dumps(about))
        head = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 24_000}
        (folder / "preprocessor_config.json").write_text(json.dumps(head))
    with pytest.raises(CheckpointError) as caught:
        PretrainedEmbedding.from_folder(folder)
    assert "\n" not in str(caught.value)


def test_without_transformers_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An optional extra that is missing is one line, not a traceback."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'khala\[embed\]'"):
        PretrainedEmbedding.from_folder(tmp_path)
