"""The reference arm: what the published program does, written plainly.

Eager, one song, keys and values glued on at every token, the whole vocabulary multiplied and sorted
for it, every level embedded again at every pass, songs padded to 8,192 positions. It reads the
weights of our models, so that a ratio of times means something on any machine; each of those habits
can be left out alone, which gives the steps of the ablation.

Shape letters: S stream positions, D width, V vocabulary, T frames, Q levels, H heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from khala.backbone import Backbone
from khala.nn import TrunkConfig
from khala.nn.trunk import Layer, Trunk
from khala.superres import SuperResolution
from khala.tokens import COARSE_LEVELS

__all__ = ["DecodeHabits", "PassHabits", "ReferenceBackbone", "ReferenceSuperResolution"]

PADDED = 8192
"""Positions that the published super-resolution always computes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeHabits:
    """What the published program does for every token; False: what we do instead."""

    glues_cache: bool = True
    """Keys and values are copied into a larger tensor, and repeated for every query head."""

    whole_head: bool = True
    """Scores of all ids, the text's too, are computed and searched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PassHabits:
    """What the published program does for every level; False: what we do instead."""

    pads: bool = True
    """To 8,192 positions, which a mask hides."""

    embeds_again: bool = True
    """All lower levels of all frames are looked up and summed at every pass."""


class ReferenceBackbone:
    """Writes tokens one after another."""

    def __init__(self, backbone: Backbone, habits: DecodeHabits = DecodeHabits()) -> None:
        self._model, self._habits = backbone, habits
        self._past: list[tuple[Tensor, Tensor]] = []
        self._num_read = 0

    @torch.inference_mode()
    def begin(self, prompt_S: Tensor, *, num_new: int) -> Tensor:
        """Read a prompt; return the last position's logits_V."""
        config = self._model.config.trunk
        shape = (1, config.num_kv_heads, 0, config.head_width)
        if not self._habits.glues_cache:
            shape = (*shape[:2], len(prompt_S) + num_new, shape[3])
        self._past = [(torch.empty(shape), torch.empty(shape)) for _ in self._model.layers]
        self._num_read = 0
        return self.read(prompt_S)

    @torch.inference_mode()
    def read(self, tokens_S: Tensor) -> Tensor:
        """Read tokens; return the last position's logits_V."""
        model, num_new = self._model, len(tokens_S)
        x_SD = model.embed(tokens_S)
        for index, layer in enumerate(model.layers):
            x_SD = self._layer(index, cast(Layer, layer), x_SD)
        self._num_read += num_new
        last_D = norm(x_SD[-1], model.norm.weight, model.config.trunk)
        if self._habits.whole_head:
            return F.linear(last_D, model.lm_head.weight)
        low, high = model.config.layout.window(self._num_read % COARSE_LEVELS)
        return F.linear(last_D, model.lm_head.weight[low:high])

    def choose(self, logits_V: Tensor, *, top_k: int, temperature: float) -> int:
        """Sample from the largest logits of all, and ask for the result at once."""
        top = (logits_V / temperature).topk(min(top_k, len(logits_V)))
        place = torch.multinomial(top.values.softmax(0), 1)
        return int(top.indices[place])

    def _layer(self, index: int, layer: Layer, x_SD: Tensor) -> Tensor:
        config = self._model.config.trunk
        q, k, v = projected(layer, norm(x_SD, layer.input_norm.weight, config), config)
        start, num_new = self._num_read, x_SD.shape[0]
        q, k = (turned(self._model, x, start) for x in (q, k))
        past_k, past_v = self._past[index]
        if self._habits.glues_cache:
            k, v = torch.cat((past_k, k), dim=2), torch.cat((past_v, v), dim=2)
            self._past[index] = k, v
        else:
            past_k[:, :, start : start + num_new], past_v[:, :, start : start + num_new] = k, v
            k, v = past_k[:, :, : start + num_new], past_v[:, :, : start + num_new]
        group = config.num_heads // config.num_kv_heads
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=num_new > 1)
        return finished(layer, x_SD, y, config)


class ReferenceSuperResolution:
    """Adds a level to every frame of a song."""

    def __init__(self, model: SuperResolution, habits: PassHabits = PassHabits()) -> None:
        self._model, self._habits = model, habits

    @torch.inference_mode()
    def add_level(self, prompt_S: Tensor, codes_QT: Tensor, *, top_k: int) -> Tensor:
        """Return the next level's codes_T."""
        model, config = self._model, self._model.config
        level, num_prompt, num_frames = len(codes_QT), len(prompt_S), codes_QT.shape[1]
        num = num_prompt + num_frames
        padding = max(PADDED - num, 0) if self._habits.pads else 0
        marked_S = prompt_S.clone()
        marked_S[-1] = config.layout.marker_id(level)
        if self._habits.embeds_again:
            frames_TD = torch.zeros(num_frames + padding, config.trunk.width)
            for each, codes_T in enumerate(F.pad(codes_QT, (0, padding))):
                frames_TD = frames_TD + model.embed_level(codes_T, each)
        else:
            # as if summed while the levels were written: only the last one is added
            frames_TD = torch.zeros(num_frames + padding, config.trunk.width)
            frames_TD += model.embed_level(F.pad(codes_QT[-1], (0, padding)), level - 1)
        x_SD = torch.cat((model.embed(marked_S), frames_TD))
        mask = None
        if padding:
            mask = torch.ones(1, 1, num + padding, num + padding, dtype=torch.bool)
            mask[..., num:] = False
        for layer in model.layers:
            x_SD = self._layer(cast(Layer, layer), x_SD, mask)
        frames_TD = norm(x_SD, model.norm.weight, config.trunk)[num_prompt:num]
        top = model.level_logits(frames_TD, level).topk(top_k, dim=1)
        place_T1 = torch.multinomial(top.values.softmax(1), 1)
        return top.indices.gather(1, place_T1)[:, 0]

    def _layer(self, layer: Layer, x_SD: Tensor, mask: Tensor | None) -> Tensor:
        config = self._model.config.trunk
        q, k, v = projected(layer, norm(x_SD, layer.input_norm.weight, config), config)
        q, k = (turned(self._model, x, 0) for x in (q, k))
        group = config.num_heads // config.num_kv_heads
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        return finished(layer, x_SD, F.scaled_dot_product_attention(q, k, v, mask), config)


def norm(x: Tensor, weight: Tensor, config: TrunkConfig) -> Tensor:
    """Return RMSNorm, step by step."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config.norm_eps) * weight


def projected(layer: Layer, x_SD: Tensor, config: TrunkConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values, [1, H, S, K] each, by three products."""
    attn = layer.attn
    q, k, v = (
        proj(x_SD).view(1, len(x_SD), -1, config.head_width).transpose(1, 2)
        for proj in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    return q, k, v


def turned(trunk: Trunk, x_1HSK: Tensor, start: int) -> Tensor:
    """Return rotated heads, with angles computed on the way as the published program does."""
    width, base = x_1HSK.shape[-1], trunk.trunk_config.rope_base
    where_S = torch.arange(start, start + x_1HSK.shape[2], dtype=torch.float32)
    powers = base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.outer(where_S, 1.0 / powers)
    cos, sin = (torch.cat((f(angles), f(angles)), dim=1) for f in (torch.cos, torch.sin))
    first, second = x_1HSK.chunk(2, dim=-1)
    return x_1HSK * cos + torch.cat((-second, first), dim=-1) * sin


def finished(layer: Layer, x_SD: Tensor, y_1HSK: Tensor, config: TrunkConfig) -> Tensor:
    """Return the residual stream after attention's output and the feed-forward block."""
    y_SD = y_1HSK[0].transpose(0, 1).reshape(len(x_SD), -1)
    x_SD = x_SD + layer.attn.o_proj(y_SD)
    h_SD, mlp = norm(x_SD, layer.post_attn_norm.weight, config), layer.mlp
    gate, up = mlp.gate_proj(h_SD), mlp.up_proj(h_SD)
    if config.double_fc1_bias:
        gate, up = gate + mlp.gate_proj.bias, up + mlp.up_proj.bias
    return x_SD + mlp.down_proj(F.silu(gate) * up)
