"""Embeddings of models that somebody else trained, from a folder, through `transformers`.

CLAP, MERT, wav2vec 2.0, HuBERT, Whisper and whatever else its AutoModel knows. Nothing is
downloaded, no code of the folder is run, and nothing is unpickled: weights are safetensors, or a
``pytorch_model.bin`` that `khala.convert` reads.

Shape letters, this file only: C channels, N samples, D width, S steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor

from khala.audio import resample
from khala.convert import read_state_dict
from khala.errors import AudioError, CheckpointError, ConfigError
from khala.evals.distances import SAMPLE_RATE_HZ, Wave

__all__ = ["PretrainedEmbedding", "one_line", "read_whole"]

WINDOW_S = 10.0
MERT_OPTIONS = ("attention_relax", "deepnorm", "feature_extractor_cqt")
SHORTEST_S = 1.0
"""Shorter songs are followed by silence: convolutional encoders refuse a few milliseconds."""


class PretrainedEmbedding:
    """An encoder and the features it wants; a song's embedding is the mean over its windows."""

    def __init__(self, name: str, model: Any, extractor: Any) -> None:
        self._name = name
        self._model = model
        self._extractor = extractor
        self._rate_hz = int(extractor.sampling_rate)
        # Whisper pads whatever it is given to its chunk; CLAP draws a part of longer sounds
        fixed_s = getattr(extractor, "chunk_length", None) or getattr(
            extractor, "max_length_s", None
        )
        self._window_s = float(fixed_s or WINDOW_S)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._name

    @torch.inference_mode()
    def embed(self, wave_CN: Wave) -> npt.NDArray[np.float32]:
        """Return [D]: CLAP's audio projection, or the mean of an encoder's last hidden state.

        Raises:
            AudioError: the wave holds no sample.
            CheckpointError: the model gives neither, or does not take what its extractor gives.
        """
        if wave_CN.shape[1] == 0:
            raise AudioError("a wave without a sample cannot be heard")
        mono_1N = np.asarray(wave_CN, dtype=np.float32).mean(axis=0, keepdims=True)
        mono_N = resample(mono_1N, SAMPLE_RATE_HZ, self._rate_hz)[0]
        mono_N = np.pad(mono_N, (0, max(0, round(SHORTEST_S * self._rate_hz) - mono_N.size)))
        length = round(self._window_s * self._rate_hz)
        num_windows = math.ceil(mono_N.size / length)
        starts = np.linspace(0, max(0, mono_N.size - length), num_windows).round().astype(int)
        try:
            windows = [self._one(mono_N[start : start + length]) for start in starts.tolist()]
        except (ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{self._name} cannot embed a song: {one_line(error)}") from error
        mean_D: npt.NDArray[np.float32] = torch.stack(windows).mean(dim=0).float().numpy()
        return mean_D

    def _one(self, mono_N: npt.NDArray[np.float32]) -> Tensor:
        """Return [D] for one window."""
        inputs = self._extractor(mono_N, sampling_rate=self._rate_hz, return_tensors="pt")
        if hasattr(self._model, "get_audio_features"):
            found = self._model.get_audio_features(**inputs)
            projected_1D: Tensor = getattr(found, "pooler_output", found)
            return projected_1D[0]
        is_pair = getattr(self._model.config, "is_encoder_decoder", False)
        encoder = self._model.get_encoder() if is_pair else self._model
        hidden_1SD = getattr(encoder(**inputs), "last_hidden_state", None)
        if not isinstance(hidden_1SD, Tensor) or hidden_1SD.ndim != 3:
            raise CheckpointError(f"{self._name} is no encoder: it has no last hidden state")
        return hidden_1SD[0].mean(dim=0)

    @classmethod
    def from_folder(cls, folder: Path) -> PretrainedEmbedding:
        """Read a model that ``save_pretrained`` wrote, with its feature extractor.

        Raises:
            ConfigError: transformers is not installed.
            CheckpointError: no such folder, or nothing that transformers can read as a whole.
        """
        model, extractor, _ = read_whole(folder, ("AutoModel",), option="--embedding")
        return cls(folder.resolve().name, model, extractor)


def read_whole(
    folder: Path, classes: Sequence[str], *, option: str, with_tokenizer: bool = False
) -> tuple[Any, Any, Any]:
    """Return model, feature extractor and tokenizer (or None) that ``save_pretrained`` wrote.

    Args:
        folder: where they are.
        classes: names in `transformers` to read the model with; the first that knows it.
        option: that named the folder, for messages.
        with_tokenizer: whether there is one.

    Raises:
        ConfigError: transformers is not installed.
        CheckpointError: no such folder, or nothing that transformers can read as a whole.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{option}: there is no folder {folder}")
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f"{option} needs transformers: pip install 'khala[embed]'") from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, **local)
        tokenizer = None
        if with_tokenizer:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        known: list[Any] = [getattr(transformers, name) for name in classes]
        mert = _as_hubert(folder, transformers) if "AutoModel" in classes else None
        if mert is None:
            model, about = _first_that_reads(known, folder, local)
        else:
            model, about = _loaded(transformers.HubertModel, folder, {**local, "config": mert})
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"transformers cannot read {folder}: {one_line(error)}") from error
    missing = sorted(about["missing_keys"])
    if missing:
        raise CheckpointError(f"{folder}: tensor {missing[0]} is missing")
    return model.eval().float(), extractor, tokenizer


def _as_hubert(folder: Path, transformers: Any) -> Any:
    """Return the config of a HuBERT for a MERT, which is one trained on music; None for others.

    MERT (https://arxiv.org/abs/2306.00107) has a name and code of its own in its folder. That code
    is not run; without the options that only it knows, its layers and tensors are HuBERT's.

    Raises:
        CheckpointError: it has such an option.
    """
    path = folder / "config.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(about, dict) or about.get("model_type") != "mert_model":
        return None
    for option in MERT_OPTIONS:
        value = about.get(option)
        if value is True or (isinstance(value, int | float) and value > 0):
            raise CheckpointError(f"{folder} is a MERT with {option}, which HuBERT has not")
    kept = {name: value for name, value in about.items() if name not in ("model_type", "auto_map")}
    return transformers.HubertConfig(**kept)


def _first_that_reads(
    classes: Sequence[Any], folder: Path, local: Mapping[str, bool]
) -> tuple[Any, dict[str, Any]]:
    """Return a model and what transformers says of its loading, by the first class that knows it.

    A class that does not know a config says so with a ValueError before it reads any weights.
    """
    *firsts, last = classes
    for one in firsts:
        try:
            return _loaded(one, folder, local)
        except ValueError:
            continue
    return _loaded(last, folder, local)


def _loaded(one: Any, folder: Path, local: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return a model of one class, and what transformers says of its loading."""
    found: tuple[Any, dict[str, Any]]
    pickled = _pickled_weights(folder)
    if not pickled:
        found = one.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **local)
        return found
    from transformers import AutoConfig

    config = local.get("config") or AutoConfig.from_pretrained(folder, **local)
    if not hasattr(one, "config_class"):  # an Auto class: ask it which one it would be
        with torch.device("meta"):
            one = type(one.from_config(config, trust_remote_code=False))
    tensors = {name: tensor for path in pickled for name, tensor in read_state_dict(path).items()}
    found = one.from_pretrained(None, config=config, state_dict=tensors, output_loading_info=True)
    return found


def _pickled_weights(folder: Path) -> list[Path]:
    """Return the files of torch.save that hold the weights; none where there are safetensors.

    Raises:
        CheckpointError: the list of a model in parts names a file elsewhere.
    """
    if any(folder.glob("*.safetensors")):
        return []
    index = folder / "pytorch_model.bin.index.json"
    if not index.is_file():
        whole = folder / "pytorch_model.bin"
        return [whole] if whole.is_file() else []
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, which is not in its folder")
    return [folder / name for name in names]


def one_line(error: Exception) -> str:
    """Return the first line of what went wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
