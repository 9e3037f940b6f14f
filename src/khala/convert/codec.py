"""The published codec's tensors -> those of our codec.

Its checkpoint is one of PyTorch Lightning: under ``state_dict`` the codec is what begins with
``generator.``. Encoder and decoder keep their names (see `khala.codec.conv`). The codebooks, one
tensor per level there, become one; a second copy of each, ``quantizer.embed_i``, must equal it.
What else a level holds was needed only to train it. The converted copy has no encoder: it becomes a
codec that plays songs.

Shape letters: Q levels, K codes of a level, W latent width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from khala.codec.codec import Codec
from khala.codec.config import CodecConfig, ConvConfig, QuantizerConfig
from khala.convert.stored import PlainTensor, StoredTensor
from khala.convert.torch_file import FileTensor
from khala.errors import CheckpointError, ConfigError

__all__ = ["GENERATOR", "check_copies", "codec_config", "codec_tensors", "split_codec"]

GENERATOR = "generator."
TABLE = re.compile(r"quantizer\.vq_layer_(\d+)\._codebook\.embed")
COPY = re.compile(r"quantizer\.embed_(\d+)")
TRAINING = re.compile(r"quantizer\.vq_layer_\d+\._codebook\.(inited|cluster_size|embed_avg)")


def split_codec(
    found: Mapping[str, FileTensor],
) -> tuple[dict[str, FileTensor], dict[str, str]]:
    """Return the codec's tensors, without the prefix, and what is skipped and why."""
    has_prefix = any(name.startswith(GENERATOR) for name in found)
    tensors: dict[str, FileTensor] = {}
    skipped = {}
    for name, tensor in found.items():
        if has_prefix and not name.startswith(GENERATOR):
            skipped[name] = "not part of the codec: needed only to train it"
            continue
        short = name.removeprefix(GENERATOR)
        if TRAINING.fullmatch(short):
            skipped[name] = "state of a codebook's training"
            continue
        tensors[short] = tensor
    return tensors, skipped


def codec_config(stored: Mapping[str, StoredTensor], *, source: str) -> CodecConfig:
    """Return the codec that the tensors' shapes describe, at the published 44.1 kHz.

    Raises:
        CheckpointError: they describe none.
    """
    try:
        has_encoder = any(name.startswith("encoder.") for name in stored)
        filters = stored["encoder.block.0.weight_v"].shape[0] if has_encoder else None
        down = _strides(stored, r"encoder\.block\.(\d+)\.block\.4\.weight_v")
        up = _strides(stored, r"decoder\.model\.(\d+)\.block\.1\.weight_v")
        leave = stored[f"decoder.model.{len(up) + 2}.weight_v"].shape
        tables = _tables(stored)
        num_codes, latent_width = stored[tables.get(0, _table(0))].shape
        return CodecConfig(
            channels=leave[0],
            hop=math.prod(up),
            quantizer=QuantizerConfig(
                num_levels=len(tables), codebook_size=num_codes, latent_width=latent_width
            ),
            conv=ConvConfig(
                encoder_filters=filters,
                encoder_strides=down,
                decoder_filters=leave[1],
                decoder_strides=up,
            ),
        )
    except KeyError as error:
        raise CheckpointError(f"{source}: tensor {error.args[0]} is missing") from error
    except (ConfigError, ValueError, IndexError) as error:
        raise CheckpointError(f"{source} holds no codec of the published kind: {error}") from error


def codec_tensors(
    stored: Mapping[str, StoredTensor], config: CodecConfig, *, source: str
) -> list[PlainTensor]:
    """Return the tensors of our codec; nothing is read yet.

    Raises:
        CheckpointError: names the first missing, extra or misshapen tensor, and what is wanted.
    """
    with torch.device("meta"):
        ours = Codec(config).state_dict()
    sizes, levels = config.quantizer, range(config.quantizer.num_levels)
    found = _tables(stored)
    tables = tuple(found.get(level, _table(level)) for level in levels)
    shapes = {name: tuple(t.shape) for name, t in ours.items() if name != "quantizer.codebooks"}
    shape = (sizes.codebook_size, sizes.latent_width)
    wanted = shapes | dict.fromkeys(tables, shape)
    allowed = wanted | {f"quantizer.embed_{level}": shape for level in levels}
    for name, shape in wanted.items():
        if name not in stored:
            raise CheckpointError(f"{source}: tensor {name} {shape} is missing")
    for name, tensor in stored.items():
        if name not in allowed:
            raise CheckpointError(
                f"{source}: tensor {name} {tensor.shape} is not part of a codec of these sizes"
            )
        if tensor.shape != allowed[name] or not tensor.dtype.is_floating_point:
            raise CheckpointError(
                f"{source}: tensor {name} is {tensor.dtype} {tensor.shape}, not {allowed[name]}"
            )
    plain = [
        PlainTensor(
            name=name,
            shape=shapes[name],
            dtype=stored[name].dtype,
            sources=(name,),
            read=stored[name].read,
        )
        for name in shapes
    ]
    joined = PlainTensor(
        name="quantizer.codebooks",
        shape=(len(tables), sizes.codebook_size, sizes.latent_width),
        dtype=stored[tables[0]].dtype,
        sources=tables,
        read=_Joined(tuple(stored[name] for name in tables)),
    )
    return [*plain, joined]


def check_copies(stored: Mapping[str, StoredTensor], *, source: str) -> list[str]:
    """Return the names of the codebooks' copies after comparing each with its codebook.

    Raises:
        CheckpointError: a copy differs, so nobody can say which of the two is meant.
    """
    tables = _tables(stored)
    copies = {name: int(hit[1]) for name in stored if (hit := COPY.fullmatch(name))}
    copies = {name: level for name, level in copies.items() if tables[level] != name}
    for name, level in copies.items():
        table = tables[level]
        if not torch.equal(stored[name].read(), stored[table].read()):
            raise CheckpointError(f"{source}: tensors {name} and {table} must be equal and differ")
    return list(copies)


def _table(level: int) -> str:
    return f"quantizer.vq_layer_{level}._codebook.embed"


def _tables(stored: Mapping[str, StoredTensor]) -> dict[int, str]:
    """Return the codebook of each level: all of them, or if there is none of them, the copies."""
    found = {int(hit[1]): name for name in stored if (hit := TABLE.fullmatch(name))}
    return found or {int(hit[1]): name for name in stored if (hit := COPY.fullmatch(name))}


def _strides(stored: Mapping[str, StoredTensor], pattern: str) -> tuple[int, ...]:
    """Return the strides of the blocks' resampling convolutions: half of each one's kernel."""
    kernels = {
        int(hit[1]): tensor.shape[-1]
        for name, tensor in stored.items()
        if (hit := re.fullmatch(pattern, name))
    }
    return tuple(kernels[number] // 2 for number in sorted(kernels))


@dataclass(frozen=True, slots=True)
class _Joined:
    """The codebooks of all levels, [Q, K, W]."""

    tables: tuple[StoredTensor, ...]

    def __call__(self, lo: int, hi: int) -> Tensor:
        return torch.stack([table.read() for table in self.tables[lo:hi]])
