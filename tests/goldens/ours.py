"""The same arrays from Khala's models, as a user gets them: loaded from a folder and called."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from khala.backbone import Backbone
from khala.codec import Codec
from khala.codec.crossfade import decode_crossfaded
from khala.nn.sampling import top_candidates
from khala.superres import Packing, SuperResolution

Arrays = dict[str, np.ndarray]
M = TypeVar("M", Backbone, SuperResolution)


def array(tensor: Tensor) -> np.ndarray:
    """Return a tensor's numbers, floats in double precision."""
    tensor = tensor.detach()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def with_single_bias(model: M) -> M:
    """Return the model that adds the biases of fc1 once, as a port without the field would."""
    trunk = dataclasses.replace(model.config.trunk, double_fc1_bias=False)
    single = type(model)(dataclasses.replace(model.config, trunk=trunk))
    single.load_state_dict(model.state_dict())
    return single.eval()


@contextmanager
def outputs_of(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collect what each module gives while something runs."""
    seen: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
        for name, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def two_largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of each row and its distance to the next."""
    top = logits.double().topk(2, dim=-1).values
    return top[..., 0], top[..., 0] - top[..., 1]


@torch.inference_mode()
def backbone_arrays(
    model: Backbone,
    prompt: np.ndarray,
    positions: np.ndarray,
    windows: Sequence[tuple[int, int]],
    num_generated: int,
) -> Arrays:
    """Return what `reference.backbone_arrays` returns."""
    tokens_1S = torch.from_numpy(prompt.astype(np.int64))[None]
    rows = torch.from_numpy(positions.astype(np.int64))
    blocks: dict[str, nn.Module] = {"act_embed": model.embed, "hidden_final": model.norm}
    for index, layer in enumerate(model.layers):
        names = {f"act_attn{index}": layer.attn, f"act_mlp{index}": layer.mlp}
        blocks |= {**names, f"act_layer{index}": layer}
    with outputs_of(blocks) as seen:
        logits_SV = model(tokens_1S)[0]
    assert logits_SV.dtype == torch.float32
    there, vocab_size = logits_SV[rows], model.config.vocab_size
    assert logits_SV.shape[1] == vocab_size
    hidden_PD = seen["hidden_final"][0, rows]
    largest, margin = two_largest(there)
    logp_SV = logits_SV[:-1].double().log_softmax(dim=1)
    kept = top_candidates(logits_SV[-1:], 50)[0]
    kept_logits = logits_SV[-1, kept].double()
    made = {name: rows_1SD[0, rows] for name, rows_1SD in seen.items()} | {
        "prompt_ids": tokens_1S[0],
        "positions": rows,
        "logit_windows": torch.cat([there[:, lo:hi] for lo, hi in windows], dim=1),
        "padded_logits_tail": model.window_logits(hidden_PD, vocab_size, vocab_size + 8),
        "argmax": there.argmax(dim=1),
        "max": largest,
        "margin": margin,
        "logsumexp": there.double().logsumexp(dim=1),
        "teacher_logp": logp_SV.gather(1, tokens_1S[0, 1:, None])[:, 0],
        "top50_ids": kept,
        "top50_probs": kept_logits.softmax(dim=0),
        "top50_probs_T0p8": (kept_logits / 0.8).softmax(dim=0),
        "single_bias_hidden_last": with_single_bias(model).hidden(tokens_1S)[0, -1],
    }
    layout = model.config.layout
    for name, window in (
        ("greedy_free", lambda _: (0, vocab_size)),
        ("greedy_audio", lambda step: layout.window(step % 2)),
    ):
        made[name], made[f"{name}_margin"] = greedy(model, tokens_1S, window, num_generated)
    return {name: array(tensor) for name, tensor in made.items()}


def greedy(
    model: Backbone, tokens_1S: Tensor, window: Callable[[int], tuple[int, int]], num: int
) -> tuple[Tensor, Tensor]:
    """Return the best id of each step and its distance to the next, through the cache."""
    cache = model.new_cache(1, tokens_1S.shape[1] + num)
    tokens_1N, ids, margins = tokens_1S, [], []
    for step in range(num):
        lo, hi = window(step)
        hidden_1D = model.hidden(tokens_1N, cache=cache)[:, -1]
        logits_1V = model.window_logits(hidden_1D, lo, hi)
        tokens_1N = lo + logits_1V.argmax(dim=1, keepdim=True)
        ids.append(tokens_1N[0])
        margins.append(two_largest(logits_1V)[1])
    return torch.cat(ids), torch.cat(margins)


@torch.inference_mode()
def superres_arrays(model: SuperResolution, prompt: np.ndarray, coarse_T2: np.ndarray) -> Arrays:
    """Return what `reference.superres_arrays` returns."""
    prompt_S = torch.from_numpy(prompt.astype(np.int64))
    num_text, layout, passes = prompt_S.shape[0], model.config.layout, []
    coarse_2T = torch.from_numpy(coarse_T2.T.copy())
    codes_QT = model.complete(prompt_S, coarse_2T, top_k=1, seed=0, on_level=passes.append)
    assert len(passes) == 62
    made: dict[str, Any] = {"text_ids": prompt_S, "codes": codes_QT, "q0q1_codes": codes_QT[:2].T}
    margins, hidden_sums, embed_sums = [], [], []
    for level in range(2, layout.num_levels):
        embedded_SD, hidden_SD = one_pass(model, prompt_S, codes_QT, level)
        logits_TV = model.level_logits(hidden_SD[num_text:], level)
        assert logits_TV.argmax(dim=1).equal(codes_QT[level])
        margins.append(two_largest(logits_TV)[1])
        hidden_sums.append(hidden_SD.double().sum(dim=1))
        embed_sums.append(embedded_SD.double().sum(dim=1))
        if level in (2, 3, 33, 63):
            made[f"embed_idx{level}"], made[f"hidden_idx{level}"] = embedded_SD, hidden_SD
        if level in (2, 33):
            text_S2 = torch.full((num_text, level), -1)
            text_S2[:, 0] = prompt_S
            text_S2[-1, 0] = layout.marker_id(level)
            firsts = torch.tensor([layout.first_id(below) for below in range(level)])
            frames_TQ = codes_QT[:level].T + firsts
            made[f"input_idx{level}"] = torch.cat((text_S2, frames_TQ))
        if level in (2, 63):
            made[f"logits_idx{level}_frame0_3"] = logits_TV[:4]
    made["causal_hidden_idx2"] = one_pass(model, prompt_S, codes_QT, 2, causal=True)[1]
    made["single_bias_hidden_idx2"] = one_pass(with_single_bias(model), prompt_S, codes_QT, 2)[1]
    made["hidden_sum"], made["embed_sum"] = torch.stack(hidden_sums), torch.stack(embed_sums)
    made["margins"] = torch.stack(margins)
    return {name: array(tensor) for name, tensor in made.items()}


def one_pass(
    model: SuperResolution, prompt_S: Tensor, codes_QT: Tensor, level: int, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Return what goes into the layers and what comes out where ``level`` is written."""
    num_text, num_frames = prompt_S.shape[0], codes_QT.shape[1]
    text_PD = model.embed_prompt(prompt_S[None], torch.tensor([num_text]), [level])[0]
    frames_1TD = model.embed_levels(codes_QT[None], level)
    packing = Packing.full(1, num_text, num_frames, prompt_S.device)
    hidden_SD = model.level_hidden(
        prompt_S[None], frames_1TD, [level], packing=packing, causal=causal
    )[0]
    return torch.cat((text_PD, frames_1TD[0])), hidden_SD


@torch.inference_mode()
def codec_arrays(
    codec: Codec, wave_CN: np.ndarray, chunk_codes: np.ndarray, *, size: int, overlap: int
) -> Arrays:
    """Return what `reference_codec.codec_arrays` returns."""
    wave_1CN = torch.from_numpy(wave_CN)[None]
    encoder, decoder = codec.encoder.block, codec.decoder.model
    with outputs_of({"enc_conv_in": encoder[0], "enc_block1": encoder[1]}) as seen:
        codes_1QT = codec.encode(wave_1CN, pad=False)
        latents_TD = codec.latents(wave_1CN)[0][0]
    with outputs_of({"dec_conv_in": decoder[0], "dec_block1": decoder[1]}) as said:
        decoded_CN = codec.decode(codes_1QT)[0]

    chunk_1QT = torch.from_numpy(chunk_codes)[None]
    whole_CN = array(codec.decode(chunk_1QT, chunk_frames=None)[0])
    chunked_1CN = decode_crossfaded(codec, chunk_1QT, chunk_frames=size, overlap_frames=overlap)
    chunked_CN = array(chunked_1CN[0])
    made = {
        "wav": wave_1CN[0],
        "codes": codes_1QT[0],
        "z": latents_TD.T,
        "enc_conv_in_first64": seen["enc_conv_in"][0, :, :64],
        "enc_block1_first64": seen["enc_block1"][0, :, :64],
        "q_z": codec.quantizer.decode(codes_1QT)[0].T,
        "dec_conv_in": said["dec_conv_in"][0],
        "dec_block1_first32": said["dec_block1"][0, :, :32],
        "decoded": decoded_CN,
        "decoded_first2": codec.decode(codes_1QT[:, :2])[0, :, ::4],
        "eff_weight_dec1_up": decoder[1].block[1].weight()[:2],
        "chunk_codes": torch.from_numpy(chunk_codes),
        **_distances(codec, latents_TD, codes_1QT[0]),
    }
    arrays = {name: array(tensor) for name, tensor in made.items()}
    arrays["chunk_wave"], arrays["chunk_full_wave"] = chunked_CN[:, ::16], whole_CN[:, ::16]
    arrays["chunk_len"] = np.array([chunked_CN.shape[1], whole_CN.shape[1]])
    return arrays


def _distances(codec: Codec, latents_TD: Tensor, codes_QT: Tensor) -> dict[str, Tensor]:
    """Return how far the second-best code of each level is behind, and what the level leaves."""
    residual_TD, margins, losses = latents_TD, [], []
    for level, codes_T in enumerate(codes_QT):
        table_KD = codec.quantizer.codebooks[level]
        squares_TK = torch.cdist(residual_TD.double(), table_KD.double()).square()
        two = squares_TK.topk(2, dim=1, largest=False).values
        margins.append(two[:, 1] - two[:, 0])
        residual_TD = residual_TD - table_KD[codes_T]
        losses.append(residual_TD.double().square().mean()[None])
    return {"nn_margin": torch.stack(margins), "commit_loss": torch.stack(losses)}
