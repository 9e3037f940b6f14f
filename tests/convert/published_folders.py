"""Whole downloads of published weights, tiny, in both layouts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from megatron_folders import ARGUMENTS, plain_weights, save_folder, to_megatron
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from torch import Tensor

from khala.codec import Codec, CodecConfig, ConvConfig, QuantizerConfig
from khala.tokens import TextTokenizer

BACKBONE_ROWS, SUPERRES_ROWS = 130_432, 193_920
CODEC = CodecConfig(
    hop=2048,
    conv=ConvConfig(encoder_filters=2, decoder_filters=3),
    quantizer=QuantizerConfig(num_levels=64, latent_width=4),
)


def lightning_codec(config: CodecConfig = CODEC, *, seed: int = 0) -> dict[str, Any]:
    """What the codec's training wrote: weights, copies of the codebooks, and other things."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = Codec(config)
    state: dict[str, Tensor] = {"discriminator.conv.weight": torch.ones(3)}
    for name, tensor in codec.state_dict().items():
        if name != "quantizer.codebooks":
            state[f"generator.{name}"] = tensor.clone()
    for level, table in enumerate(codec.quantizer.codebooks):
        one = f"generator.quantizer.vq_layer_{level}._codebook."
        table = table.clone()
        state |= {
            f"{one}inited": torch.ones(1),
            f"{one}cluster_size": torch.full((1024,), 10.0),
            f"{one}embed": table,
            f"{one}embed_avg": table.clone(),
            f"generator.quantizer.embed_{level}": table,
        }
    return {
        "epoch": 3,
        "global_step": 2_490_000,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state,
        "hyper_parameters": argparse.Namespace(lr=1e-4),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(5)}}}],
    }


def llama_tokenizer(path: Path) -> None:
    """A tokenizer.json with the published ones' special tokens, at 128,000 to 128,255."""
    bytes_only = json.loads(TextTokenizer.bytes()._tokenizer.to_str())
    vocabulary = dict(bytes_only["model"]["vocab"])
    vocabulary |= {f"<filler {index}>": index for index in range(256, 128_000)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    bytes_tokenizer = TextTokenizer.bytes()._tokenizer
    tokenizer.pre_tokenizer = bytes_tokenizer.pre_tokenizer
    tokenizer.decoder = bytes_tokenizer.decoder
    tokenizer.add_special_tokens(
        [AddedToken(f"<|special {index}|>", special=True) for index in range(256)]
    )
    tokenizer.save(str(path))


def as_published(folder: Path, *, cut: bool = False, few: bool = False) -> Path:
    """The layout of the authors: Megatron's folders, the codec's checkpoint, the tokenizer."""
    for seed, (name, rows, iteration) in enumerate(
        (("backbone", BACKBONE_ROWS, 36_000), ("superresolution", SUPERRES_ROWS, 10_000))
    ):
        place = folder / name / f"iter_{iteration:07d}"
        state: dict[str, Any] = to_megatron(plain_weights(rows, seed=seed))
        state |= {"optimizer.state.exp_avg.x": torch.ones(4, 4), "rng_state": torch.zeros(3)}
        state["decoder.layers.0.self_attention.linear_qkv._extra_state"] = {"a": [1]}
        save_folder(place, state, cut=cut, few=few)
        arguments = argparse.Namespace(
            **{**ARGUMENTS, "norm_epsilon": 1e-5}, params_dtype=torch.bfloat16
        )
        torch.save({"args": arguments, "iteration": iteration}, place / "common.pt")
        (folder / name / "latest_checkpointed_iteration.txt").write_text(f"{iteration}\n")
    torch.save(lightning_codec(), folder / "dac_rvq_2490000.ckpt")
    llama_tokenizer(folder / "tokenizer.json")
    return folder


def decoder_only(*, copies: bool = False) -> dict[str, Any]:
    """The converted copy's codec: no prefix, no encoder; with the codebooks or their copies."""
    prefix, left_out = "generator.", "generator.quantizer.vq_layer_" if copies else "-"
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in lightning_codec()["state_dict"].items()
        if name.startswith((f"{prefix}decoder.", f"{prefix}quantizer."))
        and not name.startswith(left_out)
    }


def as_copied(folder: Path) -> Path:
    """The layout of the converted copy: our names in safetensors, no encoder and no tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (kind, rows) in enumerate((("backbone", BACKBONE_ROWS), ("superres", SUPERRES_ROWS))):
        save_file(plain_weights(rows, seed=seed), folder / f"khala_{kind}.safetensors")
        arguments = {**ARGUMENTS, "padded_vocab_size": rows, "seq_length": 4096}
        (folder / f"{kind}_megatron_args.json").write_text(json.dumps(arguments))
    torch.save(decoder_only(), folder / "decoder_weights.pt")
    (folder / "decoder_config.yaml").write_text("model: {}\n")
    return folder
