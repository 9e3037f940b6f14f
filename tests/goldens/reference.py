"""The published language models in plain float64 numpy: slow, obvious, and nothing of ours.

Written from the facts of the published system alone, so that a mistake that a test and the code
under test could share has to be made twice. It reproduces the recorded set first; then it says what
models of other sizes must give.

Shape letters: S stream positions, D width, H heads, K head width, V vocabulary, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray
TEXT_IDS, CODES = 128_256, 1024
NUM_IDS = TEXT_IDS + 2 * CODES
PAD = -1


class LanguageModel:
    """Pre-norm layers of grouped attention with rotary positions, and SwiGLU."""

    def __init__(self, weights: Mapping[str, Array], sizes: Mapping[str, Any]) -> None:
        self.weights = {
            name: tensor if tensor.shape[0] > 100_000 else tensor.astype(np.float64)
            for name, tensor in weights.items()
        }
        self.sizes = sizes

    def linear(self, x_SD: Array, name: str, *, biases: int = 1) -> Array:
        """Return x W^T + biases * b."""
        return x_SD @ self.weights[f"{name}.weight"].T + biases * self.weights[f"{name}.bias"]

    def norm(self, x_SD: Array, name: str) -> Array:
        """Return x divided by its root mean square, times the weight."""
        size = np.sqrt(np.mean(x_SD**2, axis=1, keepdims=True) + 1e-6)
        return x_SD / size * self.weights[f"{name}.weight"]

    def attention(self, x_SD: Array, layer: str, visible_SS: Array) -> Array:
        """Return the attention block's output, before the residual sum."""
        heads, kv, width = (self.sizes[name] for name in ("heads", "kv", "hd"))
        rows = x_SD.shape[0]
        q_SHK = self.linear(x_SD, f"{layer}attn.q_proj").reshape(rows, heads, width)
        k_SHK = self.linear(x_SD, f"{layer}attn.k_proj").reshape(rows, kv, width)
        v_SHK = self.linear(x_SD, f"{layer}attn.v_proj").reshape(rows, kv, width)
        q_SHK, k_SHK = turned(q_SHK), turned(k_SHK)
        out_SHK = np.empty_like(q_SHK)
        for head in range(heads):
            shared = head // (heads // kv)
            scores_SS = q_SHK[:, head] @ k_SHK[:, shared].T / np.sqrt(width)
            scores_SS = np.where(visible_SS, scores_SS, -np.inf)
            chances_SS = np.exp(scores_SS - scores_SS.max(axis=1, keepdims=True))
            chances_SS /= chances_SS.sum(axis=1, keepdims=True)
            out_SHK[:, head] = chances_SS @ v_SHK[:, shared]
        return self.linear(out_SHK.reshape(rows, -1), f"{layer}attn.o_proj")

    def mlp(self, x_SD: Array, layer: str, *, biases: int) -> Array:
        """Return the SwiGLU block's output, before the residual sum."""
        gate = self.linear(x_SD, f"{layer}mlp.gate_proj", biases=biases)
        up = self.linear(x_SD, f"{layer}mlp.up_proj", biases=biases)
        return self.linear(gate / (1 + np.exp(-gate)) * up, f"{layer}mlp.down_proj")

    def run(self, x_SD: Array, visible_SS: Array, *, biases: int = 2) -> dict[str, Array]:
        """Return what every block gives, and ``hidden_final`` after the last norm."""
        seen = {}
        for index in range(self.sizes["layers"]):
            layer = f"layers.{index}."
            normed_SD = self.norm(x_SD, f"{layer}input_norm")
            seen[f"act_attn{index}"] = self.attention(normed_SD, layer, visible_SS)
            x_SD = x_SD + seen[f"act_attn{index}"]
            normed_SD = self.norm(x_SD, f"{layer}post_attn_norm")
            seen[f"act_mlp{index}"] = self.mlp(normed_SD, layer, biases=biases)
            x_SD = x_SD + seen[f"act_mlp{index}"]
            seen[f"act_layer{index}"] = x_SD
        seen["hidden_final"] = self.norm(x_SD, "norm")
        return seen

    def embed(self, ids: Array) -> Array:
        """Return rows of the embedding; a pad is zero."""
        rows = self.weights["embed.weight"][np.maximum(ids, 0)].astype(np.float64)
        return np.where(ids[..., None] == PAD, 0.0, rows)

    def logits(self, hidden: Array, lo: int, hi: int) -> Array:
        """Return the scores of ids lo to hi."""
        return hidden @ self.weights["lm_head.weight"][lo:hi].astype(np.float64).T


def turned(x_SHK: Array) -> Array:
    """Return channels i and i + K/2 turned together by position / 500000^(2i/K)."""
    rows, _, width = x_SHK.shape
    half = width // 2
    angles = np.arange(rows)[:, None] / 500_000.0 ** (2 * np.arange(half) / width)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    first, second = x_SHK[..., :half], x_SHK[..., half:]
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)


def causal(num: int) -> Array:
    """Return which position sees which: itself and what is before it."""
    return np.tril(np.ones((num, num), bool))


def two_largest(rows: Array) -> tuple[Array, Array]:
    """Return the largest of each row and its distance to the next."""
    top = np.sort(rows, axis=-1)[..., -2:]
    return top[..., 1], top[..., 1] - top[..., 0]


def softmax(x: Array) -> Array:
    """Return exp(x) divided by its sum."""
    chances = np.exp(x - x.max())
    return chances / chances.sum()


def kept_50(logits_V: Array) -> dict[str, Array]:
    """Return the 50 likeliest ids, ascending, and their chances among themselves."""
    kept = np.sort(np.argsort(-logits_V)[:50])
    return {
        "top50_ids": kept,
        "top50_probs": softmax(logits_V[kept]),
        "top50_probs_T0p8": softmax(logits_V[kept] / 0.8),
    }


def backbone_arrays(
    model: LanguageModel,
    prompt: Array,
    positions: Array,
    windows: Sequence[tuple[int, int]],
    num_generated: int,
) -> dict[str, Array]:
    """Return every array of ``backbone.npz``, the 50 likeliest in the order of their ids."""
    prompt = np.asarray(prompt, np.int64)
    embedded_SD = model.embed(prompt)
    mask_SS = causal(len(prompt))
    seen = {"act_embed": embedded_SD, **model.run(embedded_SD, mask_SS)}
    made = {name: rows[positions] for name, rows in seen.items()}
    hidden_SD = seen["hidden_final"]
    logits_SV = model.logits(hidden_SD, 0, NUM_IDS)
    there = logits_SV[positions]
    totals_S = np.log(np.exp(logits_SV).sum(axis=1))
    follows = logits_SV[np.arange(len(prompt) - 1), prompt[1:]]
    largest, margin = two_largest(there)
    made |= {
        "prompt_ids": prompt,
        "positions": positions,
        "logit_windows": np.concatenate([there[:, lo:hi] for lo, hi in windows], axis=1),
        "padded_logits_tail": model.logits(hidden_SD[positions], NUM_IDS, NUM_IDS + 8),
        "argmax": there.argmax(axis=1),
        "max": largest,
        "margin": margin,
        "logsumexp": totals_S[positions],
        "teacher_logp": follows - totals_S[:-1],
        **kept_50(logits_SV[-1]),
        "single_bias_hidden_last": model.run(embedded_SD, mask_SS, biases=1)["hidden_final"][-1],
    }
    for name, window in (
        ("greedy_free", lambda _: (0, NUM_IDS)),
        (
            "greedy_audio",
            lambda step: (TEXT_IDS + step % 2 * CODES, TEXT_IDS + (step % 2 + 1) * CODES),
        ),
    ):
        made[name], made[f"{name}_margin"] = greedy(model, prompt, window, num_generated)
    return made


def greedy(
    model: LanguageModel, prompt: Array, window: Callable[[int], tuple[int, int]], num: int
) -> tuple[Array, Array]:
    """Return the best id of each step and its distance to the next, without any cache."""
    ids, margins = list(prompt), []
    for step in range(num):
        lo, hi = window(step)
        hidden_SD = model.run(model.embed(np.array(ids)), causal(len(ids)))["hidden_final"]
        logits_V = model.logits(hidden_SD[-1], lo, hi)
        ids.append(lo + int(logits_V.argmax()))
        margins.append(two_largest(logits_V)[1])
    return np.array(ids[len(prompt) :]), np.array(margins)


def packed(prompt: Array, codes_QT: Array, level: int, num_pads: int = 0) -> Array:
    """Return the ids [S, level] of the pass that writes ``level``."""
    num_text, num_frames = len(prompt), codes_QT.shape[1]
    ids = np.full((num_text + num_frames + num_pads, level), PAD)
    ids[:num_text, 0] = prompt
    ids[num_text - 1, 0] = 128_255 - level
    for below in range(level):
        ids[num_text : num_text + num_frames, below] = TEXT_IDS + CODES * below + codes_QT[below]
    return ids


def superres_pass(
    model: LanguageModel, ids_SQ: Array, *, biases: int = 2, is_causal: bool = False
) -> tuple[Array, Array]:
    """Return the sum of every row's embeddings and the final hidden states of one pass."""
    embedded_SD = model.embed(ids_SQ).sum(axis=1)
    num = len(ids_SQ)
    visible_SS = np.broadcast_to(ids_SQ[:, 0] != PAD, (num, num))
    if is_causal:
        visible_SS = visible_SS & causal(num)
    return embedded_SD, model.run(embedded_SD, visible_SS, biases=biases)["hidden_final"]


def superres_arrays(
    model: LanguageModel, prompt: Array, coarse_T2: Array, *, num_pads: int = 0
) -> dict[str, Array]:
    """Return every array of ``superres.npz``; pads change none of them."""
    prompt, num_text, num_frames = np.asarray(prompt, np.int64), len(prompt), len(coarse_T2)
    real = slice(0, num_text + num_frames)
    frames = slice(num_text, num_text + num_frames)
    codes_QT = np.zeros((64, num_frames), np.int64)
    codes_QT[:2] = np.asarray(coarse_T2).T
    made: dict[str, Any] = {"text_ids": prompt, "q0q1_codes": coarse_T2}
    margins, hidden_sums, embed_sums = [], [], []
    for level in range(2, 64):
        ids_SQ = packed(prompt, codes_QT, level, num_pads)
        embedded_SD, hidden_SD = superres_pass(model, ids_SQ)
        first = TEXT_IDS + CODES * level
        logits_TV = model.logits(hidden_SD[frames], first, first + CODES)
        codes_QT[level] = logits_TV.argmax(axis=1)
        margins.append(two_largest(logits_TV)[1])
        hidden_sums.append(hidden_SD[real].sum(axis=1))
        embed_sums.append(embedded_SD[real].sum(axis=1))
        if level in (2, 3, 33, 63):
            made[f"embed_idx{level}"] = embedded_SD[real]
            made[f"hidden_idx{level}"] = hidden_SD[real]
        if level in (2, 33):
            made[f"input_idx{level}"] = ids_SQ[real]
        if level in (2, 63):
            made[f"logits_idx{level}_frame0_3"] = logits_TV[:4]
    second = packed(prompt, codes_QT, 2, num_pads)
    made["causal_hidden_idx2"] = superres_pass(model, second, is_causal=True)[1][real]
    made["single_bias_hidden_idx2"] = superres_pass(model, second, biases=1)[1][real]
    sums = {"hidden_sum": np.array(hidden_sums), "embed_sum": np.array(embed_sums)}
    return {**made, **sums, "codes": codes_QT, "margins": np.array(margins)}
