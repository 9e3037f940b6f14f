"""Super-resolution against numbers from the published architecture (golden set A)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_weights import fill
from test_golden_backbone import close, trunk_config
from torch import Tensor

from khala.superres import Packing, Sketch, SuperResConfig, SuperResolution, complete_songs
from khala.tokens import published_layout

HERE = Path(__file__).parent / "A"
NUM_ROWS = 193_920


@pytest.fixture(scope="module")
def info() -> dict[str, Any]:
    return dict(json.loads((HERE / "info.json").read_text()))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(HERE / "superres.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def superres(info: dict[str, Any]) -> SuperResolution:
    config = SuperResConfig(
        trunk=trunk_config(info["config"]),
        layout=published_layout(),
        max_positions=64,
        num_rows=NUM_ROWS,
    )
    model = SuperResolution(config)
    fill(model, "superres/", info["config"]["seed"])
    return model.eval()


@pytest.fixture(scope="module")
def prompt_S(golden: dict[str, np.ndarray]) -> Tensor:
    return torch.from_numpy(golden["text_ids"].astype(np.int64))


@pytest.fixture(scope="module")
def codes_QT(golden: dict[str, np.ndarray]) -> Tensor:
    return torch.from_numpy(golden["codes"].astype(np.int64))


def hidden_at(
    model: SuperResolution, prompt_S: Tensor, codes_QT: Tensor, level: int, causal: bool = False
) -> Tensor:
    """Return hidden_SD of the pass that predicts ``level`` from the codes below it."""
    frames = model.embed_levels(codes_QT[None], level)
    packing = Packing.full(1, prompt_S.shape[0], codes_QT.shape[1], prompt_S.device)
    return model.level_hidden(prompt_S[None], frames, [level], packing=packing, causal=causal)[0]


def test_all_codes_of_all_levels(
    superres: SuperResolution, golden: dict[str, np.ndarray], prompt_S: Tensor, codes_QT: Tensor
) -> None:
    """62 passes feed each other: one wrong sum, marker or mask and every later level is noise."""
    levels: list[int] = []
    codes = superres.complete(prompt_S, codes_QT[:2], top_k=1, on_level=levels.append)
    assert codes.tolist() == golden["codes"].tolist()
    assert levels == list(range(3, 65)), "exactly 62 passes"
    assert codes[:2].T.tolist() == golden["q0q1_codes"].tolist()


@torch.inference_mode()
def test_padding_does_not_change_a_code(
    superres: SuperResolution, golden: dict[str, np.ndarray], prompt_S: Tensor, codes_QT: Tensor
) -> None:
    """A song generated beside a longer one must be the song generated alone."""
    longer = Sketch(
        prompt_S=torch.cat((prompt_S[:1], prompt_S)), codes_QT=codes_QT[:2].repeat(1, 2), seed=1
    )
    sketch = Sketch(prompt_S=prompt_S, codes_QT=codes_QT[:2], seed=0)
    both = complete_songs(superres, [sketch, longer], top_k=1, levels=24)
    assert both[0].tolist() == golden["codes"][:24].tolist()


@torch.inference_mode()
def test_embeddings_hidden_states_and_logits(
    superres: SuperResolution, golden: dict[str, np.ndarray], prompt_S: Tensor, codes_QT: Tensor
) -> None:
    """Localises a difference that the codes alone would only announce."""
    num_text = prompt_S.shape[0]
    for level in (2, 3, 33, 63):
        text_PD = superres.embed_prompt(prompt_S[None], torch.tensor([num_text]), [level])[0]
        stream_SD = torch.cat((text_PD, superres.embed_levels(codes_QT[None], level)[0]))
        close(stream_SD, golden[f"embed_idx{level}"], 1e-4)
        hidden_SD = hidden_at(superres, prompt_S, codes_QT, level)
        close(hidden_SD, golden[f"hidden_idx{level}"], 1e-4)
        if level in (2, 63):
            logits_TV = superres.level_logits(hidden_SD[num_text : num_text + 4], level)
            close(logits_TV, golden[f"logits_idx{level}_frame0_3"], 2e-4)
    for level in range(2, 64):
        hidden_SD = hidden_at(superres, prompt_S, codes_QT, level)
        close(hidden_SD.double().sum(dim=1), golden["hidden_sum"][level - 2], 5e-4)


def test_marker_ids(golden: dict[str, np.ndarray]) -> None:
    """Another marker asks the released model for another level than the one that is stored."""
    layout = published_layout()
    num_text = golden["text_ids"].shape[0]
    for level in (2, 33):
        assert golden[f"input_idx{level}"][num_text - 1, 0] == layout.marker_id(level)


@torch.inference_mode()
def test_traps_are_noticed(
    superres: SuperResolution,
    golden: dict[str, np.ndarray],
    prompt_S: Tensor,
    codes_QT: Tensor,
    info: dict[str, Any],
) -> None:
    """A causal mask or a single bias runs without complaint and sounds like noise."""
    right_SD = hidden_at(superres, prompt_S, codes_QT, 2)
    causal_SD = hidden_at(superres, prompt_S, codes_QT, 2, causal=True)
    close(causal_SD, golden["causal_hidden_idx2"], 1e-4)
    assert (causal_SD - right_SD).abs().max() > 0.05
    config = dataclasses.replace(
        superres.config, trunk=trunk_config(info["config"], double_fc1_bias=False)
    )
    single = SuperResolution(config)
    single.load_state_dict(superres.state_dict())
    single_SD = hidden_at(single.eval(), prompt_S, codes_QT, 2)
    close(single_SD, golden["single_bias_hidden_idx2"], 1e-4)
    assert (single_SD - right_SD).abs().max() > 0.05
