"""Super-resolution: levels 0,1 -> 0..63, all frames of one level per pass.

Shape letters: B batch, P prompt positions, S stream positions (prompt then frames), T frames,
Q levels, D width, V codes of one level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from khala.checkpoint import load_config, load_module, resolve_part, save_model, stored
from khala.errors import ConfigError
from khala.nn.config import TrunkConfig
from khala.nn.init import blank_embedding, hidden_std, init_weights
from khala.nn.trunk import Trunk
from khala.superres.config import SuperResConfig
from khala.superres.packing import Packing
from khala.superres.tables import LevelTables
from khala.tokens import COARSE_LEVELS, TokenLayout


class DonorConfig(Protocol):
    """What must be known of the backbone that super-resolution starts from."""

    @property
    def trunk(self) -> TrunkConfig: ...

    @property
    def layout(self) -> TokenLayout: ...


class Donor(Protocol):
    """A trained backbone, seen from here."""

    @property
    def config(self) -> DonorConfig: ...

    def state_dict(self) -> dict[str, Tensor]: ...


class SuperResolution(Trunk):
    """A transformer that sees a whole song and adds one level to every frame (arXiv 2605.01790).

    The row of a frame is the sum of the embeddings of all its lower levels; the last token of the
    prompt becomes the marker of the level that is asked for.
    """

    levels: LevelTables | None

    def __init__(self, config: SuperResConfig, *, seed: int = 0) -> None:
        """Build a new model; every weight is a function of ``config`` and ``seed``."""
        super().__init__(config.trunk, max_positions=config.max_positions)
        self.config = config
        num_rows = config.num_rows or config.num_read_rows
        self.embed = blank_embedding(num_rows, config.trunk.width)
        self.lm_head = nn.Linear(config.trunk.width, num_rows, bias=False)
        self.levels = None
        if config.factor_rank is not None:
            self.levels = LevelTables(
                first_level=COARSE_LEVELS,
                num_levels=config.layout.num_levels - COARSE_LEVELS,
                codebook_size=config.layout.codebook_size,
                rank=config.factor_rank,
                width=config.trunk.width,
            )
        if not self.embed.weight.is_meta:
            init_weights(self, config.trunk, seed=seed)
            if self.levels is not None:
                self.levels.init_weights(seed=seed + 1)

    def embed_prompt(
        self, prompt_BP: Tensor, prompt_lengths_B: Tensor, target_levels: Sequence[int]
    ) -> Tensor:
        """Return prompt_BPD, each row's last token replaced by the marker of its target level."""
        markers_B = torch.tensor(
            [self.config.layout.marker_id(level) for level in target_levels],
            device=prompt_BP.device,
        )
        marked_BP = prompt_BP.clamp_min(0).scatter(
            1, prompt_lengths_B[:, None] - 1, markers_B[:, None]
        )
        out_BPD: Tensor = self.embed(marked_BP)
        return out_BPD

    @torch.no_grad()
    def start_from_latents(self, latents_QVC: Tensor, *, seed: int = 0) -> None:
        """Let the embeddings of all levels start from the codec's vectors, in place.

        Rows of levels 0-1 get theirs on top of what they are. Does nothing without factored tables.

        Args:
            latents_QVC: the codec's vector of every code of every level.
            seed: chooses the matrix that turns them into the model's width.
        """
        if self.levels is None:
            return
        width, layout = self.config.trunk.width, self.config.layout
        generator = torch.Generator().manual_seed(seed)
        shape = (latents_QVC.shape[2], width)
        turn_CD = torch.linalg.qr(torch.randn(max(shape), min(shape), generator=generator))[0]
        turn_CD = turn_CD if shape[0] >= width else turn_CD.T
        centred_QVC = latents_QVC.float() - latents_QVC.float().mean(1, keepdim=True)
        # The sum over levels gets twice the size of a row of text.
        power = (centred_QVC @ turn_CD).square().mean((1, 2)).sum()
        gain = float(2 * hidden_std(width) / power.sqrt().clamp_min(1e-12))
        for level in range(COARSE_LEVELS):
            first = layout.first_id(level)
            rows = self.embed.weight[first : first + layout.codebook_size]
            rows += gain * (centred_QVC[level] @ turn_CD).to(rows)
        self.levels.start_from_latents(latents_QVC[COARSE_LEVELS:], turn_CD, gain)

    def embed_level(self, codes_BT: Tensor, level: int) -> Tensor:
        """Return the embedding of one level's codes, [B, T, D]."""
        if self.levels is not None and level >= COARSE_LEVELS:
            return self.levels.embed(codes_BT, level)
        out_BTD: Tensor = self.embed(codes_BT + self.config.layout.first_id(level))
        return out_BTD

    def embed_levels(self, codes_BQT: Tensor, num_levels: int | Sequence[int]) -> Tensor:
        """Return the sum of the embeddings of each song's ``num_levels`` lowest levels, [B, T, D].

        Codes of higher levels may be present and are not looked at.
        """
        if not isinstance(num_levels, int):
            if len(set(num_levels)) > 1:
                each = [
                    self.embed_levels(codes_BQT[item : item + 1], num)
                    for item, num in enumerate(num_levels)
                ]
                return torch.cat(each)
            num_levels = num_levels[0]
        num_full = num_levels if self.levels is None else min(num_levels, COARSE_LEVELS)
        layout = self.config.layout
        batch, _, num_frames = codes_BQT.shape
        offsets_Q1 = torch.tensor(
            [layout.first_id(level) for level in range(num_full)], device=codes_BQT.device
        )[:, None]
        ids_BTQ = (codes_BQT[:, :num_full] + offsets_Q1).transpose(1, 2)
        bags = ids_BTQ.reshape(batch * num_frames, num_full)
        summed_BTD = F.embedding_bag(bags, self.embed.weight, mode="sum")
        summed_BTD = summed_BTD.view(batch, num_frames, -1)
        if self.levels is not None and num_levels > COARSE_LEVELS:
            summed_BTD = summed_BTD + self.levels.embed_sum(codes_BQT[:, COARSE_LEVELS:num_levels])
        return summed_BTD

    def level_hidden(
        self,
        prompt_BP: Tensor,
        frames_BTD: Tensor,
        target_levels: Sequence[int],
        *,
        packing: Packing,
        causal: bool = False,
    ) -> Tensor:
        """Return hidden_BSD of whole streams; ``packing.frames_of`` picks the frames' rows.

        Args:
            prompt_BP: prompts padded on the right; ids under the padding are not looked at.
            frames_BTD: what stands at the frames, from ``embed_levels``.
            target_levels: one level per song, for the marker.
            packing: the true lengths.
            causal: Task 0 of training only.
        """
        text_BPD = self.embed_prompt(prompt_BP, packing.prompt_lengths_B, target_levels)
        stream_BSD = packing.pack(text_BPD, frames_BTD.to(text_BPD.dtype))
        # Right padding lies after everything causal attention can see: no mask, faster kernel.
        key_mask_BS = None if causal else packing.key_mask()
        return self.transform(stream_BSD, causal=causal, key_mask_BS=key_mask_BS)

    def level_logits(self, hidden_BTD: Tensor, level: int) -> Tensor:
        """Return float32 logits_BTV of one level's codes: only that window is multiplied."""
        if self.levels is not None and level >= COARSE_LEVELS:
            return self.levels.logits(hidden_BTD, level).float()
        lo, hi = self.config.layout.window(level)
        return F.linear(hidden_BTD, self.lm_head.weight[lo:hi]).float()

    def complete(
        self,
        prompt_S: Tensor | Sequence[int],
        coarse_codes_2T: Tensor,
        top_k: int | None = None,
        seed: int = 0,
        *,
        levels: int | None = None,
        on_level: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        autocast: torch.dtype | None = None,
    ) -> Tensor:
        """Add fine levels to a song; see ``khala.superres.complete.complete_songs``."""
        from khala.superres.complete import Sketch, complete_songs

        sketch = Sketch(
            prompt_S=torch.as_tensor(prompt_S, dtype=torch.int64),
            codes_QT=torch.as_tensor(coarse_codes_2T, dtype=torch.int64),
            seed=seed,
        )
        return complete_songs(
            self,
            [sketch],
            top_k=top_k,
            levels=levels,
            on_level=on_level,
            should_stop=should_stop,
            autocast=autocast,
        )[0]

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> str:
        """Write a model folder, see `khala.checkpoint.stored`; return its digest."""
        tensors = stored(self.state_dict(), dtype)
        return save_model(folder, kind="superres", config=self.config, tensors=tensors)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = torch.float32,
    ) -> SuperResolution:
        """Read a model from a model folder or from its ``superres/`` subfolder.

        Args:
            path: the folder.
            device: where its weights go.
            dtype: of its weights; None: as they are stored.

        Raises:
            CheckpointError: the folder is missing, damaged, or does not fit its config.
        """
        folder = resolve_part(path, "superres")
        model = cls.without_weights(folder)
        model.load_weights(folder, device=device, dtype=dtype)
        return model

    @classmethod
    def without_weights(cls, folder: Path) -> SuperResolution:
        """Return the model that a folder describes, taking no memory and able to do nothing."""
        with torch.device("meta"):
            return cls(load_config(folder, "superres", SuperResConfig)).eval()

    def load_weights(
        self, folder: Path, *, device: torch.device | str, dtype: torch.dtype | None
    ) -> None:
        """Read the weights, as ``khala.checkpoint.load_module`` does."""
        load_module(self, folder, device=device, dtype=dtype)
        self.fill_rope(device)

    @classmethod
    def from_backbone(
        cls, backbone: Donor, config: SuperResConfig, *, seed: int = 0
    ) -> SuperResolution:
        """Start from a trained backbone: trunk, text rows and levels 0-1 copied, the rest new.

        Words come out markedly clearer than from a fresh start (the paper's ablation).

        Raises:
            ConfigError: the two models do not have the same trunk, text or codebooks.
        """
        ours, theirs = config.layout, backbone.config.layout
        if config.trunk != backbone.config.trunk:
            raise ConfigError("super-resolution must have the trunk of the backbone it starts from")
        if (ours.text_vocab_size, ours.codebook_size) != (
            theirs.text_vocab_size,
            theirs.codebook_size,
        ):
            raise ConfigError("super-resolution must have the text and codebooks of its backbone")
        model = cls(config, seed=seed)
        num_shared = ours.vocab_size(COARSE_LEVELS)
        tensors = backbone.state_dict()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name in ("embed.weight", "lm_head.weight"):
                    tensor[:num_shared].copy_(tensors[name][:num_shared])
                elif not name.startswith("levels."):
                    tensor.copy_(tensors[name])
        return model
