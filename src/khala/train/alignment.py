"""Telling one attention head which word is being sung.

Left alone, a model finds in its prompt the word it is singing only after very many songs. Where the
corpus knows the time of every word, one head is asked to look at that word's letters (as guided
attention does for speech, https://arxiv.org/abs/1710.08969); the rest of the model finds the words
there. Only training knows of it: the model and what it reads stay the same.

Shape letters: B batch, S stream positions, N supervised positions, K head width, D width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from khala.corpus import Word
from khala.nn import Trunk
from khala.nn.lora import weight_rows
from khala.nn.rope import rotate
from khala.nn.trunk import Layer
from khala.tokens import TextTokenizer, TokenLayout
from khala.train.watch import Watched

__all__ = ["WatchedHead", "letters_sung", "word_spans"]

LEAD_S = 0.05
"""A word's sound begins in the frame before its onset, and the model must know it by then."""


def word_spans(
    prompt: Sequence[int], words: Sequence[Word], layout: TokenLayout, tokenizer: TextTokenizer
) -> list[tuple[int, int]] | None:
    """Return the first and last prompt position of each sung word; None if one is not found.

    Words are looked for in the lyrics in the order they are sung, section tags left out.
    """
    if layout.control.begin_lyrics not in prompt:
        return None
    begin = list(prompt).index(layout.control.begin_lyrics)
    text, where = "", list[int]()
    for position in range(begin, len(prompt)):
        is_text = prompt[position] < layout.first_control_id
        piece = tokenizer.decode([prompt[position]]) if is_text else "\n"
        text += piece
        where += [position] * len(piece)
    text = re.sub(r"\[[^\]\n]*\]", lambda tag: " " * len(tag.group()), text).lower()
    spans, place = [], 0
    for word in words:
        found = re.compile(rf"(?<!\w){re.escape(word.text.lower())}(?!\w)").search(text, place)
        if found is None:
            return None
        spans.append((where[found.start()], where[found.end() - 1]))
        place = found.end()
    return spans


def letters_sung(
    words: Sequence[Word], spans: Sequence[tuple[int, int]], *, num_frames: int, duration_s: float
) -> NDArray[np.int64]:
    """Return [N, 3]: a frame, and the first and last prompt position of what it sings.

    A frame inside a word looks at the letters about as far into the word as the frame is, one more
    on each side. Frames between words are left out.
    """
    frame_s = duration_s / num_frames
    rows = []
    for word, (first, last) in zip(words, spans, strict=True):
        start = max(0, int((word.start_s - LEAD_S) / frame_s))
        for frame in range(start, min(num_frames, int(word.end_s / frame_s) + 1)):
            done = ((frame + 0.5) * frame_s - word.start_s) / max(word.end_s - word.start_s, 1e-3)
            letter = first + round(min(max(done, 0.0), 1.0) * (last - first))
            rows.append((frame, max(first, letter - 1), min(last, letter + 1)))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


class WatchedHead(Watched):
    """One head of one layer: its attention, and how far that is from where it should look.

    Use it around the model's forward pass::

        with WatchedHead(model, 2, 0) as head:
            hidden_BSD = model.hidden(tokens_BS, lengths=lengths)
        loss = head.loss(targets_N4)
    """

    def __init__(self, model: Trunk, layer: int, head: int) -> None:
        watched = model.layers[layer]
        assert isinstance(watched, Layer)
        super().__init__(watched.attn)
        self._attention = watched.attn
        self._head = head

    def loss(self, targets_N4: Tensor) -> Tensor:
        """Return the mean -log of the attention that falls where it should; 0 without targets.

        Args:
            targets_N4: first position of the stream, querying position, first and last position to
                look at; the batch is one row of streams.
        """
        x_1SD, positions, _ = self.inputs
        cos_SK, sin_SK = positions.cos, positions.sin
        attention = self._attention
        width = attention.head_width
        q_rows = slice(self._head * width, (self._head + 1) * width)
        kv_head = self._head * attention.num_kv_heads // attention.num_heads
        k_rows = slice(kv_head * width, (kv_head + 1) * width)
        q_weight = weight_rows(attention.q_proj, q_rows)
        k_weight = weight_rows(attention.k_proj, k_rows)
        total = x_1SD.new_zeros((), dtype=torch.float32)
        for start in sorted(set(targets_N4[:, 0].tolist())):
            _, query_N, first_N, last_N = (targets_N4[targets_N4[:, 0] == start] - start).unbind(1)
            stream = slice(start, start + int(query_N.max()) + 1)
            x_SD, cos, sin = x_1SD[0, stream], cos_SK[stream], sin_SK[stream]
            q_NK = F.linear(x_SD[query_N], q_weight, attention.q_proj.bias[q_rows])
            k_SK = F.linear(x_SD, k_weight, attention.k_proj.bias[k_rows])
            q_NK = rotate(q_NK, cos[query_N].to(q_NK), sin[query_N].to(q_NK))
            k_SK = rotate(k_SK, cos.to(k_SK), sin.to(k_SK))
            scores_NS = (q_NK @ k_SK.T).float() * (1 / width**0.5)
            keys_S = torch.arange(len(k_SK), device=scores_NS.device)
            hidden_NS = keys_S > query_N[:, None]
            away_NS = (keys_S < first_N[:, None]) | (keys_S > last_N[:, None])
            all_N = scores_NS.masked_fill(hidden_NS, -torch.inf).logsumexp(1)
            there_N = scores_NS.masked_fill(away_NS, -torch.inf).logsumexp(1)
            total = total + (all_N - there_N).sum()
        return total / max(len(targets_N4), 1)
