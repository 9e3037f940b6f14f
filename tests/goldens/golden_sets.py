"""The sets: the recorded one, others of other sizes, and the files each of them is published as.

A set's sizes have the words of ``info.json: config``. The other sets have what a program with the
recorded sizes built in would get wrong: 3 query heads for each key head, heads whose width is not
width / heads, odd FFN widths, other strides, levels, codebooks and hops, and more padded rows.
"""

from __future__ import annotations

import argparse
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from golden_weights import ROWS, codec_weights, integers, language_weights
from megatron_folders import save_folder, to_megatron
from reference import CODES, NUM_IDS, TEXT_IDS, LanguageModel, backbone_arrays, superres_arrays
from reference_codec import ReferenceCodec, codec_arrays
from safetensors.torch import save_file
from torch import Tensor

from khala.nn import TrunkConfig

HERE = Path(__file__).parent
INFO: dict[str, Any] = json.loads((HERE / "A" / "info.json").read_text())
NAMES = ("A", "B", "C", "D")


class Layout(NamedTuple):
    """How Megatron wrote a set's folders and its arguments, and which of those are not there."""

    fused: bool = False
    stacked: bool = False
    cut: bool = False
    arguments: type | None = argparse.Namespace
    left_out: tuple[str, ...] = ()


LAYOUTS = {
    "A": Layout(),
    "B": Layout(fused=True, stacked=True, cut=True),
    "C": Layout(fused=True, arguments=None, left_out=("kv_channels",)),
    "D": Layout(
        stacked=True,
        arguments=types.SimpleNamespace,
        left_out=("group_query_attention", "kv_channels", "rotary_base"),
    ),
}


def codec_sizes(
    *,
    channels: int,
    strides: list[int],
    rates: list[int],
    filters: tuple[int, int],
    latents: int,
    codebook: int,
    levels: int,
) -> dict[str, Any]:
    """Return a codec's sizes as ``info.json`` has them."""
    return {
        "encoder": {
            "input_channel": channels,
            "n_filters": filters[0],
            "strides": strides,
            "d_latent": latents,
        },
        "decoder": {
            "d_latent": latents,
            "n_filters": filters[1],
            "rates": rates,
            "out_channel": channels,
        },
        "quantizer": {"dim": latents, "codebook_size": codebook, "num_quantizers": levels},
    }


def sizes_of(name: str) -> dict[str, Any]:
    """Return a set's sizes."""
    return {"A": lambda: INFO["config"], "B": _b, "C": _c, "D": _d}[name]()


def _b() -> dict[str, Any]:
    """Three query heads for each of two key heads; 60 channels of queries in a width of 36."""
    return {
        "seed": 29,
        "hidden": 36,
        "layers": 3,
        "heads": 6,
        "kv": 2,
        "hd": 10,
        "ffn": 37,
        "bb_prompt": 40,
        "bb_audio_frames": 7,
        "gen": 10,
        "sr_text": 7,
        "sr_T": 9,
        "rows": {"backbone": 130_560, "superres": 194_176},
        "wav_samples": 3 * 2048 + 777,
        "chunk_frames": 17,
        "chunk_size": 7,
        "chunk_overlap": 2,
        "codec": codec_sizes(
            channels=2,
            strides=[8, 4, 8, 8],
            rates=[4, 8, 8, 8],
            filters=(3, 2),
            latents=6,
            codebook=11,
            levels=7,
        ),
    }


def _c() -> dict[str, Any]:
    """One key head for all three; a codec of five strides and of 1,024 codes."""
    return {
        "seed": 10,
        "hidden": 24,
        "layers": 1,
        "heads": 3,
        "kv": 1,
        "hd": 8,
        "ffn": 51,
        "bb_prompt": 33,
        "bb_audio_frames": 5,
        "gen": 8,
        "sr_text": 3,
        "sr_T": 33,
        "rows": ROWS,
        "wav_samples": 5 * 2048,
        "chunk_frames": 9,
        "chunk_size": 5,
        "chunk_overlap": 1,
        "codec": codec_sizes(
            channels=2,
            strides=[2, 4, 8, 4, 8],
            rates=[8, 4, 4, 2, 8],
            filters=(1, 2),
            latents=10,
            codebook=1024,
            levels=3,
        ),
    }


def _d() -> dict[str, Any]:
    """A key head for each query head; a codec of one channel, three strides and a hop of 128."""
    return {
        "seed": 92,
        "hidden": 20,
        "layers": 2,
        "heads": 4,
        "kv": 4,
        "hd": 6,
        "ffn": 33,
        "bb_prompt": 29,
        "bb_audio_frames": 6,
        "gen": 8,
        "sr_text": 12,
        "sr_T": 5,
        "rows": {"backbone": 131_072, "superres": 193_920},
        "wav_samples": 40 * 128 + 31,
        "chunk_frames": 60,
        "chunk_size": 24,
        "chunk_overlap": 6,
        "codec": codec_sizes(
            channels=1,
            strides=[4, 4, 8],
            rates=[8, 8, 2],
            filters=(5, 3),
            latents=4,
            codebook=32,
            levels=5,
        ),
    }


def tensors_of(kind: str, name: str) -> dict[str, Any]:
    """Return the float32 weights of one model of a set, under their plain names.

    Scores of padded rows are the largest of all: whoever reads one samples it.
    """
    sizes = sizes_of(name)
    if kind == "codec":
        return codec_weights(sizes["codec"], sizes["seed"])
    weights = language_weights(kind, sizes, sizes.get("rows", ROWS)[kind])
    if name != "A":
        first = {"backbone": NUM_IDS, "superres": TEXT_IDS + 64 * CODES}[kind]
        weights["lm_head.weight"][first:] *= 20
    return weights


def wanted_of(kind: str, name: str, weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return every array a set's model must give: recorded, or what the reference gives."""
    return recorded(kind) if name == "A" else referred(kind, name, weights)


def recorded(kind: str) -> dict[str, np.ndarray]:
    """Return the recorded arrays; the 50 likeliest ids in ascending order."""
    with np.load(HERE / "A" / f"{kind}.npz") as arrays:
        found = {name: arrays[name] for name in arrays.files}
    if kind == "backbone":
        order = np.argsort(found["top50_ids"])
        found |= {name: found[name][order] for name in found if name.startswith("top50")}
    return found


def referred(kind: str, name: str, weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return what the reference gives for a set, from the recorded inputs or drawn ones."""
    sizes = sizes_of(name)
    if kind == "backbone":
        given = recorded(kind) if name == "A" else _backbone_inputs(sizes)
        return backbone_arrays(
            LanguageModel(weights, sizes),
            given["prompt_ids"],
            given["positions"],
            INFO["windows"],
            sizes["gen"],
        )
    if kind == "superres":
        given = recorded(kind) if name == "A" else _superres_inputs(sizes)
        model = LanguageModel(weights, sizes)
        return superres_arrays(model, given["text_ids"], given["q0q1_codes"], num_pads=5)
    given = recorded(kind) if name == "A" else _codec_inputs(sizes)
    return codec_arrays(
        ReferenceCodec(weights, sizes["codec"]),
        given["wav"],
        given["chunk_codes"],
        size=sizes["chunk_size"],
        overlap=sizes["chunk_overlap"],
    )


def _text(num: int, seed: int) -> np.ndarray:
    """Return a prompt: its first id, words, its two last ids."""
    words = integers("words", num - 3, 0, 128_000, seed)
    return np.concatenate(([128_000], words, [128_009, 128_010]))


def _backbone_inputs(sizes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    num_audio = 2 * sizes["bb_audio_frames"]
    codes = integers("codes", num_audio, 0, CODES, sizes["seed"])
    audio = TEXT_IDS + CODES * (np.arange(num_audio) % 2) + codes
    num_text = sizes["bb_prompt"] - num_audio
    prompt = np.concatenate((_text(num_text, sizes["seed"]), audio))
    ends = (0, 1, num_text - 1, num_text, num_text + 1, len(prompt) - 1)
    return {"prompt_ids": prompt, "positions": np.array(ends)}


def _superres_inputs(sizes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    codes = integers("coarse", 2 * sizes["sr_T"], 0, CODES, sizes["seed"])
    return {
        "text_ids": _text(sizes["sr_text"], sizes["seed"]),
        "q0q1_codes": codes.reshape(sizes["sr_T"], 2),
    }


def _codec_inputs(sizes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    codec, seed = sizes["codec"], sizes["seed"]
    num, channels = sizes["wav_samples"], codec["encoder"]["input_channel"]
    time = np.arange(num) / 44_100
    tones = [np.sin(2 * np.pi * 220 * (number + 1) * time**1.2) for number in range(channels)]
    noise = np.concatenate([integers(f"wav{c}", num, -100, 101, seed) for c in range(channels)])
    wave = 0.5 * np.array(tones) + 0.003 * noise.reshape(channels, num)
    levels, codebook = codec["quantizer"]["num_quantizers"], codec["quantizer"]["codebook_size"]
    frames = sizes["chunk_frames"]
    codes = integers("chunk_codes", levels * frames, 0, codebook, seed)
    return {"wav": wave.astype(np.float32), "chunk_codes": codes.reshape(levels, frames)}


def trunk_of(sizes: Mapping[str, Any]) -> TrunkConfig:
    """Return what a set's sizes are in our words, with the published weights' double bias."""
    return TrunkConfig(
        width=sizes["hidden"],
        num_layers=sizes["layers"],
        num_heads=sizes["heads"],
        num_kv_heads=sizes["kv"],
        head_width=sizes["hd"],
        ffn_width=sizes["ffn"],
        double_fc1_bias=True,
    )


def arguments_of(kind: str, name: str) -> dict[str, Any]:
    """Return what the training was called with, as far as a set's files say it."""
    sizes = sizes_of(name)
    grouped = sizes["kv"] != sizes["heads"]
    arguments = {
        "hidden_size": sizes["hidden"],
        "num_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "group_query_attention": grouped,
        "num_query_groups": sizes["kv"] if grouped else 1,
        "kv_channels": sizes["hd"],
        "ffn_hidden_size": sizes["ffn"],
        "swiglu": True,
        "norm_epsilon": 1e-6,
        "rotary_base": 500_000,
        "rotary_percent": 1.0,
        "vocab_size": {"backbone": 130_304, "superres": 193_792}[kind],
        "padded_vocab_size": sizes.get("rows", ROWS)[kind],
        "max_position_embeddings": 4096,
        "add_bias_linear": True,
        "untie_embeddings_and_output_weights": True,
        "normalization": "RMSNorm",
        "position_embedding_type": "rope",
    }
    return {key: value for key, value in arguments.items() if key not in LAYOUTS[name].left_out}


def write_copy(folder: Path, kind: str, name: str, weights: Mapping[str, Any]) -> Path:
    """Write one model as the converted copy has it: plain names, arguments beside them."""
    folder.mkdir(parents=True)
    tensors = _tensors(weights)
    if kind == "codec":
        torch.save(tensors, folder / "decoder_weights.pt")
        return folder
    save_file(tensors, folder / f"khala_{kind}.safetensors")
    arguments = json.dumps(arguments_of(kind, name))
    (folder / f"{kind}_megatron_args.json").write_text(arguments)
    return folder


def write_published(folder: Path, kind: str, name: str, weights: Mapping[str, Any]) -> Path:
    """Write one model as its authors publish it."""
    folder.mkdir(parents=True)
    tensors, layout = _tensors(weights), LAYOUTS[name]
    if kind == "codec":
        state = {f"generator.{key}": tensor for key, tensor in tensors.items()}
        state["discriminator.weight"] = torch.ones(3)
        torch.save({"epoch": 1, "state_dict": state}, folder / "dac_rvq_2490000.ckpt")
        return folder
    place = folder / {"backbone": "backbone", "superres": "superresolution"}[kind]
    iteration = place / "iter_0036000"
    state = to_megatron(
        tensors, fused=layout.fused, stacked=layout.stacked, trunk=trunk_of(sizes_of(name))
    )
    save_folder(iteration, state, cut=layout.cut)
    (place / "latest_checkpointed_iteration.txt").write_text("36000")
    arguments = arguments_of(kind, name)
    if layout.arguments is not None:
        common = {"args": layout.arguments(**arguments), "iteration": 36_000}
        torch.save(common, iteration / "common.pt")
    else:
        (place / "megatron_args.json").write_text(json.dumps(arguments))
    return folder


def _tensors(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in weights.items()}
