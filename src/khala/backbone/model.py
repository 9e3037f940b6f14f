"""The backbone: prompt -> levels 0 and 1, one token after another.

Shape letters: B batch, S stream positions, D width, V vocabulary or a window of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from khala.backbone.config import BackboneConfig
from khala.checkpoint import load_config, load_module, resolve_part, save_model, stored
from khala.errors import TokenError
from khala.nn.cache import KVCache
from khala.nn.init import blank_embedding, init_weights
from khala.nn.trunk import Trunk


class Backbone(Trunk):
    """A causal language model over [prompt, q0, q1, q0, q1, ...] (arXiv 2605.01790).

    Example:
        >>> backbone = Backbone.from_pretrained("nano")  # doctest: +SKIP
        >>> logits_BSV = backbone(tokens_BS)  # doctest: +SKIP
    """

    def __init__(self, config: BackboneConfig, *, seed: int = 0) -> None:
        """Build a new model; every weight is a function of ``config`` and ``seed``."""
        super().__init__(config.trunk, max_positions=config.max_positions)
        self.config = config
        num_rows = config.num_rows or config.vocab_size
        self.embed = blank_embedding(num_rows, config.trunk.width)
        self.lm_head = nn.Linear(config.trunk.width, num_rows, bias=False)
        if not self.embed.weight.is_meta:
            init_weights(self, config.trunk, seed=seed)

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """Return logits_BSV in float32 over the real vocabulary, padded rows left out.

        Row s holds the scores of the token that follows position s.

        Raises:
            TokenError: an id lies outside the vocabulary, or the stream is too long.
        """
        check_ids(tokens_BS, self.config.vocab_size)
        return self.window_logits(self.hidden(tokens_BS), 0, self.config.vocab_size)

    def hidden(
        self,
        tokens_BS: Tensor,
        *,
        cache: KVCache | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Return hidden_BSD after the final norm. Ids are trusted: check them at the border.

        Args:
            tokens_BS: streams.
            cache: earlier positions.
            lengths: of several streams in one row; see ``Trunk.transform``.
        """
        return self.transform(self.embed(tokens_BS), causal=True, cache=cache, lengths=lengths)

    def window_logits(self, hidden: Tensor, lo: int, hi: int) -> Tensor:
        """Return float32 logits of the ids in [lo, hi): only those rows are multiplied."""
        return F.linear(hidden, self.lm_head.weight[lo:hi]).float()

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> str:
        """Write a model folder, see `khala.checkpoint.stored`; return its digest."""
        tensors = stored(self.state_dict(), dtype)
        return save_model(folder, kind="backbone", config=self.config, tensors=tensors)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = torch.float32,
    ) -> Backbone:
        """Read a backbone from a model folder or from its ``backbone/`` subfolder.

        Args:
            path: the folder.
            device: where its weights go.
            dtype: of its weights; None: as they are stored.

        Raises:
            CheckpointError: the folder is missing, damaged, or does not fit its config.
        """
        folder = resolve_part(path, "backbone")
        model = cls.without_weights(folder)
        model.load_weights(folder, device=device, dtype=dtype)
        return model

    @classmethod
    def without_weights(cls, folder: Path) -> Backbone:
        """Return the model that a folder describes, taking no memory and able to do nothing."""
        with torch.device("meta"):
            return cls(load_config(folder, "backbone", BackboneConfig)).eval()

    def load_weights(
        self, folder: Path, *, device: torch.device | str, dtype: torch.dtype | None
    ) -> None:
        """Read the weights, as ``khala.checkpoint.load_module`` does."""
        load_module(self, folder, device=device, dtype=dtype)
        self.fill_rope(device)


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """Raise TokenError unless every id lies in [0, vocab_size)."""
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size):
        raise TokenError(
            f"ids must lie in [0, {vocab_size}), not {int(ids.min())}..{int(ids.max())}"
        )
