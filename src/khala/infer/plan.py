"""What a model needs in memory, known before any of it is loaded. Pure functions over its sizes.

Each stage is counted at its most: weights, keys and values, and the largest numbers of one pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from khala import checkpoint
from khala.backbone import BackboneConfig
from khala.codec import Codec
from khala.codec.config import CodecConfig
from khala.errors import CheckpointError
from khala.infer.limits import longest_s
from khala.infer.schedule import SongNeeds
from khala.machine import Machine
from khala.nn import TrunkConfig, compiled
from khala.nn.inference import laid_out_bytes
from khala.superres import SuperResConfig

__all__ = [
    "PARTS",
    "LoadPlan",
    "ModelSize",
    "Needs",
    "decide",
    "longest_that_fits",
    "needs",
    "song_needs",
]

PARTS = ("codec", "backbone", "superres")
"""The models of a model folder."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Kinds of numbers that weights are in memory, and the size of one."""

PROMPT = 512
"""Tokens of prompt and lyrics that are counted with where nobody says how many there are."""

BLOCK = 256
"""Queries whose scores are held at once where the whole table of them is not."""

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """The sizes of a model folder, from its configs and the headers of its weights."""

    backbone: BackboneConfig
    superres: SuperResConfig
    codec: CodecConfig
    numbers: Mapping[str, int]
    """Numbers that generating reads, by the name of the part."""

    stored: Mapping[str, str]
    """Kind of most numbers of a part: "float32", "bfloat16", "float16" or "int8"."""

    largest: Mapping[str, int]
    """Bytes of the largest stored tensor of a part: while it is cast, both kinds are in memory."""

    piece_frames: int
    """Frames that the codec decodes at once, with the context on both sides."""

    @classmethod
    def of(cls, folder: Path) -> ModelSize:
        """Read the sizes of a model folder; no weight is read.

        Raises:
            CheckpointError: a part is missing or damaged.
        """
        for part in PARTS:
            if not (folder / part).is_dir():
                raise CheckpointError(f"{folder} is not a whole model: it has no {part}/")
        numbers, stored, largest = {}, {}, {}
        for part in PARTS:
            tensors = checkpoint.stored_tensors(checkpoint.resolve_part(folder, part))
            kinds: dict[str, int] = {}
            for name, (shape, kind) in tensors.items():
                if not (part == "codec" and name.startswith("encoder.")):
                    kinds[kind] = kinds.get(kind, 0) + math.prod(shape)
            numbers[part] = sum(kinds.values())
            largest[part] = max(
                math.prod(shape) * BYTES.get(kind, 1) for shape, kind in tensors.values()
            )
            stored[part] = max(kinds, key=lambda kind: kinds[kind])
        codec = Codec.without_weights(checkpoint.resolve_part(folder, "codec"))
        return cls(
            backbone=checkpoint.load_config(
                checkpoint.resolve_part(folder, "backbone"), "backbone", BackboneConfig
            ),
            superres=checkpoint.load_config(
                checkpoint.resolve_part(folder, "superres"), "superres", SuperResConfig
            ),
            codec=codec.config,
            numbers=numbers,
            stored=stored,
            largest=largest,
            piece_frames=codec.decode_frames + 2 * codec.halo_frames,
        )

    def weights_are(self, dtype: str) -> str:
        """Return the kind of numbers that weights are in memory, one of ``BYTES``.

        Args:
            dtype: what the language models compute in, one of ``khala.song.DTYPES``.
        """
        if dtype == "int8":
            return "bfloat16" if self.stored["superres"] in ("bfloat16", "float16") else "float32"
        return "float32" if dtype == "mixed" else dtype

    def weights(self, dtype: str) -> dict[str, int]:
        """Return the bytes of each part's weights, if the language models compute in ``dtype``."""
        item = BYTES[self.weights_are(dtype)]
        found = {part: self.numbers[part] * item for part in ("backbone", "superres")}
        return found | {"codec": self.numbers["codec"] * BYTES["float32"]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """Bytes that each stage needs, weights included, beside those of the process itself."""

    backbone: int
    superres: int
    codec: int
    weights: Mapping[str, int]
    """The weights' share, by the name of the part."""

    process: int
    """The process itself, with torch and without a model."""

    @property
    def together(self) -> int:
        """With all weights staying in memory: the stages still work one after another."""
        work = max(getattr(self, part) - size for part, size in self.weights.items())
        return self.process + sum(self.weights.values()) + work

    @property
    def in_turns(self) -> int:
        """With only one stage's weights in memory at a time."""
        return self.process + max(self.backbone, self.superres, self.codec)


def needs(
    size: ModelSize,
    machine: Machine,
    duration_s: float,
    dtype: str,
    *,
    num_prompt: int = PROMPT,
    guided: bool = False,
) -> Needs:
    """Return what a song of this length needs.

    Args:
        size: of the model.
        machine: where it is made.
        duration_s: of the song.
        dtype: what backbone and super-resolution compute in.
        num_prompt: tokens of its prompt.
        guided: two streams are written beside each other.
    """
    frames = math.ceil(duration_s * 1.05 * size.codec.sample_rate_hz / size.codec.hop)
    item = BYTES[size.weights_are(dtype)]
    weights = size.weights(dtype)
    products = _products(size, machine, dtype)
    narrow = None if products is None else products.itemsize
    work = {
        "backbone": _sketching(size, dtype, machine.kind, num_prompt, frames, rows=1 + guided)
        + laid_out_bytes(size.backbone.trunk, item, 1 if dtype == "int8" else None),
        "superres": _completing(size.superres, num_prompt, frames, item)
        + laid_out_bytes(size.superres.trunk, item, narrow),
    }
    for part in work:
        if size.stored[part] != size.weights_are(dtype):
            work[part] = max(work[part], size.largest[part])
    return Needs(
        backbone=weights["backbone"] + work["backbone"],
        superres=weights["superres"] + work["superres"],
        codec=weights["codec"] + _decoding(size, frames),
        weights=weights,
        process=machine.process_bytes,
    )


def song_needs(
    size: ModelSize, *, num_prompt: int, num_frames: int, dtype: str, kind: str, guided: bool
) -> SongNeeds:
    """Return what one song needs beside the weights, until it has all its levels.

    Args:
        size: of the model.
        num_prompt: tokens of its prompt.
        num_frames: the most it may have.
        dtype: what backbone and super-resolution compute in.
        kind: of the device, see `Machine`.
        guided: two streams are written beside each other.
    """
    item = BYTES[size.weights_are(dtype)]
    cache = _cache(size, dtype, kind, num_prompt, num_frames, rows=1 + guided)
    sums = 3 * (num_prompt + num_frames) * size.superres.trunk.width * 4
    sketching = _sketching(size, dtype, kind, num_prompt, num_frames, rows=1 + guided)
    completing = _completing(size.superres, num_prompt, num_frames, item)
    return SongNeeds(
        held=max(cache, sums),
        passing=max(sketching - cache, completing - sums),
        positions=num_prompt + num_frames,
    )


def longest_that_fits(size: ModelSize, machine: Machine, dtype: str, *, in_turns: bool) -> int:
    """Return the longest song in whole seconds that memory and the models' positions allow.

    0 where none does; memory that nobody tells the size of is not looked at.
    """
    hop_s = size.codec.hop / size.codec.sample_rate_hz
    positions = (size.backbone.max_positions, size.superres.max_positions)
    low, high = 0, int(longest_s(frame_rate_hz=1 / hop_s, num_prompt=16, positions=positions))
    while low < high:
        middle = (low + high + 1) // 2
        wanted = needs(size, machine, middle, dtype)
        total = wanted.in_turns if in_turns else wanted.together
        fits = machine.free_bytes is None or total <= machine.free_bytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _sketching(
    size: ModelSize, dtype: str, kind: str, num_prompt: int, frames: int, *, rows: int
) -> int:
    item = BYTES[size.weights_are(dtype)]
    cache = _cache(size, dtype, kind, num_prompt, frames, rows=rows)
    prompt = _kept(size.backbone.trunk, num_prompt) * item
    return cache + prompt + _one_pass(size.backbone.trunk, num_prompt, item)


def _cache(
    size: ModelSize, dtype: str, kind: str, num_prompt: int, frames: int, *, rows: int
) -> int:
    trunk, positions = size.backbone.trunk, num_prompt + 2 * frames
    if dtype == "int8" and size.weights_are(dtype) == "float32" and compiled.suits(trunk, kind):
        return rows * compiled.narrow_cache_bytes(trunk, positions)
    return rows * _kept(trunk, positions) * BYTES[size.weights_are(dtype)]


def _kept(trunk: TrunkConfig, positions: int) -> int:
    """Numbers of one stream's keys and values."""
    return 2 * trunk.num_layers * trunk.num_kv_heads * trunk.head_width * positions


def _completing(config: SuperResConfig, num_prompt: int, frames: int, item: int) -> int:
    positions = num_prompt + frames
    sums = 3 * positions * config.trunk.width * 4  # kept in float32
    scores = 3 * frames * config.layout.codebook_size * 4
    return sums + scores + _one_pass(config.trunk, positions, item)


def _one_pass(trunk: TrunkConfig, positions: int, item: int) -> int:
    """The largest numbers of one layer: its inputs side by side, its activations, its scores."""
    queries = (trunk.num_heads + 2 * trunk.num_kv_heads) * trunk.head_width
    joined = max(2 * trunk.ffn_width, queries) * trunk.width * item
    rows = positions * (6 * trunk.width + max(4 * trunk.ffn_width, 3 * queries)) * item
    scores = 3 * min(positions, BLOCK) * positions * trunk.num_heads * item
    return joined + rows + scores


def _decoding(size: ModelSize, frames: int) -> int:
    codec = size.codec
    pieces = min(frames, size.piece_frames)
    wave = 4 * frames * codec.hop * codec.channels * 4
    if codec.conv is not None:
        widest = codec.conv.decoder_filters * 2 ** len(codec.conv.decoder_strides)
        kernel = 2 * max(codec.conv.decoder_strides)
        # the largest weight three times: as stored, scaled, and laid out for the product
        return (
            wave
            + 3 * widest * widest // 2 * kernel * 4
            + 5 * pieces * (codec.hop * codec.conv.decoder_filters * 4)
        )
    assert codec.spectral is not None
    spectrum = codec.channels * 2 * (codec.spectral.n_fft // 2 + 1) * codec.spectral.patches
    return wave + 8 * pieces * spectrum * 4


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadPlan:
    """How a model is loaded: what was decided, not what was asked for."""

    dtype: str
    """What backbone and super-resolution compute in, one of ``khala.song.DTYPES``."""

    weights: str
    """The kind of numbers that their weights are in memory, one of ``BYTES``."""

    products: torch.dtype | None
    """What super-resolution multiplies in, None: in what its weights are."""

    turns: bool
    """Each stage loads its weights when its work begins, and gives them back after it."""

    @property
    def stored_as(self) -> torch.dtype:
        """What the weights of backbone and super-resolution are in memory."""
        found = getattr(torch, self.weights)
        assert isinstance(found, torch.dtype)
        return found

    @property
    def has_int8_steps(self) -> bool:
        """Whether the backbone's matrices are read in 8 bits while tokens are written."""
        return self.dtype == "int8"


def decide(size: ModelSize, machine: Machine, dtype: str | None, duration_s: float) -> LoadPlan:
    """Decide how to load a model on a device.

    Weights stored in 16 bits stay so wherever the device computes well in them, and elsewhere if
    nothing else fits; others become float32, and "mixed" where bfloat16 is fast. Small backbones
    stored in 8 bits are read in 8 bits where steps are compiled: they lose nothing. On a CPU,
    weights that are not cast are mapped from their files: the system takes their memory back when
    it is short, so they need no turns.

    Args:
        size: of the model.
        machine: where it shall run.
        dtype: what was asked for; None: choose.
        duration_s: of the longest song that is expected.
    """
    chosen = _dtype(size, machine, duration_s) if dtype is None else dtype
    is_mapped = machine.kind == "cpu" and size.stored["superres"] == size.weights_are(chosen)
    short = machine.free_bytes is not None and (
        needs(size, machine, duration_s, chosen).together > machine.free_bytes
    )
    return LoadPlan(
        dtype=chosen,
        weights=size.weights_are(chosen),
        products=_products(size, machine, chosen),
        turns=short and not is_mapped,
    )


def _products(size: ModelSize, machine: Machine, dtype: str) -> torch.dtype | None:
    """What super-resolution multiplies in: bfloat16 where that was asked for or is faster."""
    is_narrow = dtype == "mixed" or (dtype == "int8" and machine.has_bfloat16)
    return torch.bfloat16 if is_narrow and size.weights_are(dtype) == "float32" else None


def _dtype(size: ModelSize, machine: Machine, duration_s: float) -> str:
    stored = size.stored["superres"]
    if stored not in ("bfloat16", "float16"):
        if size.stored["backbone"] == "int8" and compiled.suits(size.backbone.trunk, machine.kind):
            return "int8"
        return "mixed" if machine.has_bfloat16 else "float32"
    if machine.kind == "mps":
        return "float16"
    if machine.kind == "cuda":
        return "bfloat16" if machine.has_bfloat16 else "float16"
    free = machine.free_bytes
    fits = free is None or needs(size, machine, duration_s, "float32").together <= free
    return "float32" if fits and not machine.has_bfloat16 else "bfloat16"
