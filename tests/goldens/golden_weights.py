"""Weights by formula: the models of the golden fixtures, without a file of weights.

An integer hash of (name, index) gives every number, so two implementations that agree on the
formula hold the same weights bit for bit. Sizes are those of ``info.json: config``; the names are
the published checkpoints'.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray
ROWS = {"backbone": 130_432, "superres": 193_920}
"""Rows of the vocabulary in the published weights, some more than there are ids."""


def uniform(name: str, num: int, seed: int) -> Array:
    """Return ``num`` float64 numbers in [-1, 1) for a tensor's name."""
    key = (zlib.crc32(name.encode()) + seed * 0x85EBCA6B) % 2**32
    x = np.arange(num, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(key)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x.astype(np.float64) / 2**31 - 1.0


def integers(name: str, num: int, lo: int, hi: int, seed: int) -> Array:
    """Return ``num`` integers in [lo, hi) for a name."""
    return lo + np.floor((uniform(name, num, seed) + 1) * 0.5 * (hi - lo)).astype(np.int64)


def _filled(name: str, shape: Sequence[int], scale: float, offset: float, seed: int) -> Array:
    values = offset + scale * uniform(name, int(np.prod(shape)), seed)
    return values.astype(np.float32).reshape(shape)


def language_weights(
    kind: str, sizes: Mapping[str, Any], rows: int | None = None
) -> dict[str, Any]:
    """Return every tensor of "backbone" or "superres" under its plain name, float32."""
    width, ffn = sizes["hidden"], sizes["ffn"]
    queries, keys = sizes["heads"] * sizes["hd"], sizes["kv"] * sizes["hd"]
    rows = rows or ROWS[kind]
    recipes: dict[str, tuple[tuple[int, ...], float, float]] = {
        "embed.weight": ((rows, width), 0.5, 0.0),
        "lm_head.weight": ((rows, width), 0.3, 0.0),
        "norm.weight": ((width,), 0.2, 1.0),
    }
    for index in range(sizes["layers"]):
        layer = f"layers.{index}."
        for norm in ("input_norm", "post_attn_norm"):
            recipes[f"{layer}{norm}.weight"] = ((width,), 0.2, 1.0)
        for name, out, inputs, scale, bias in (
            ("attn.q_proj", queries, width, 0.3, 0.1),
            ("attn.k_proj", keys, width, 0.3, 0.1),
            ("attn.v_proj", keys, width, 0.15, 0.1),
            ("attn.o_proj", width, queries, 0.15, 0.1),
            ("mlp.gate_proj", ffn, width, 0.15, 0.2),
            ("mlp.up_proj", ffn, width, 0.15, 0.2),
            ("mlp.down_proj", width, ffn, 0.15, 0.1),
        ):
            recipes[f"{layer}{name}.weight"] = ((out, inputs), scale, 0.0)
            recipes[f"{layer}{name}.bias"] = ((out,), bias, 0.0)
    return {
        name: _filled(f"{kind}/{name}", *recipe, sizes["seed"]) for name, recipe in recipes.items()
    }


def codec_weights(sizes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return every tensor of the codec as its checkpoint names it, without "generator."."""
    quantizer = sizes["quantizer"]
    shapes = dict(_encoder_shapes(sizes["encoder"])) | dict(_decoder_shapes(sizes["decoder"]))
    made = {
        name: _filled(f"codec/{name}", shape, *_codec_recipe(name), seed)
        for name, shape in shapes.items()
    }
    for level in range(quantizer["num_quantizers"]):
        book = f"quantizer.vq_layer_{level}._codebook."
        shape = (quantizer["codebook_size"], quantizer["dim"])
        table = _filled(f"codec/{book}embed", shape, 3.0 * 0.6**level, 0.0, seed)
        made |= {
            f"{book}inited": np.ones(1, np.float32),
            f"{book}cluster_size": np.full(shape[0], 10.0, np.float32),
            f"{book}embed": table,
            f"{book}embed_avg": table.copy(),
            f"quantizer.embed_{level}": table.copy(),
        }
    return made


def _codec_recipe(name: str) -> tuple[float, float]:
    """Scale and offset of a tensor, by its name."""
    if name.endswith("alpha"):
        return 0.5, 1.5
    if name.endswith("weight_v"):
        return 0.5, 0.0
    if name.endswith("bias"):
        return 0.1, 0.0
    return (0.15, 0.8) if name.startswith("encoder.") else (0.2, 0.8)


Shapes = list[tuple[str, tuple[int, ...]]]


def _conv(path: str, shape: tuple[int, int, int], *, num_bias: int | None = None) -> Shapes:
    bias = shape[0] if num_bias is None else num_bias
    weights = [(f"{path}.weight_g", (shape[0], 1, 1)), (f"{path}.weight_v", shape)]
    return [(f"{path}.bias", (bias,)), *weights]


def _unit(path: str, width: int) -> Shapes:
    return [
        (f"{path}.block.0.alpha", (1, width, 1)),
        *_conv(f"{path}.block.1", (width, width, 7)),
        (f"{path}.block.2.alpha", (1, width, 1)),
        *_conv(f"{path}.block.3", (width, width, 1)),
    ]


def _encoder_shapes(sizes: Mapping[str, Any]) -> Shapes:
    width = sizes["n_filters"]
    shapes = _conv("encoder.block.0", (width, sizes["input_channel"], 7))
    for number, stride in enumerate(sizes["strides"], start=1):
        path = f"encoder.block.{number}"
        for unit in range(3):
            shapes += _unit(f"{path}.block.{unit}", width)
        shapes.append((f"{path}.block.3.alpha", (1, width, 1)))
        shapes += _conv(f"{path}.block.4", (2 * width, width, 2 * stride))
        width *= 2
    last = len(sizes["strides"]) + 1
    shapes.append((f"encoder.block.{last}.alpha", (1, width, 1)))
    return shapes + _conv(f"encoder.block.{last + 1}", (sizes["d_latent"], width, 3))


def _decoder_shapes(sizes: Mapping[str, Any]) -> Shapes:
    width = sizes["n_filters"] * 2 ** len(sizes["rates"])
    shapes = _conv("decoder.model.0", (width, sizes["d_latent"], 7))
    for number, stride in enumerate(sizes["rates"], start=1):
        path, half = f"decoder.model.{number}", width // 2
        shapes.append((f"{path}.block.0.alpha", (1, width, 1)))
        # a transposed convolution's first dimension is its input
        shapes += _conv(f"{path}.block.1", (width, half, 2 * stride), num_bias=half)
        for unit in (2, 3, 4):
            shapes += _unit(f"{path}.block.{unit}", half)
        width = half
    last = len(sizes["rates"]) + 1
    shapes.append((f"decoder.model.{last}.alpha", (1, width, 1)))
    return shapes + _conv(f"decoder.model.{last + 1}", (sizes["out_channel"], width, 7))
