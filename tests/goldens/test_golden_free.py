"""Free sampling as published, against the published architecture's own greedy stream (set A)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from golden_weights import fill
from test_golden_backbone import NUM_ROWS, trunk_config

from khala.backbone import Backbone, BackboneConfig
from khala.backbone.free import generate_free
from khala.tokens import published_layout

HERE = Path(__file__).parent / "A"


def test_greedy_stream_of_the_published_program() -> None:
    """The mode that claims to do as published must write the published ids, text among them."""
    sizes = json.loads((HERE / "info.json").read_text())["config"]
    backbone = Backbone(
        BackboneConfig(
            trunk=trunk_config(sizes),
            layout=published_layout(),
            max_positions=256,
            num_rows=NUM_ROWS,
        )
    )
    fill(backbone, "backbone/", sizes["seed"])
    with np.load(HERE / "backbone.npz") as golden:
        prompt_S, wanted = golden["prompt_ids"].tolist(), golden["greedy_free"].tolist()
    tokens_S, ended = generate_free(
        backbone.eval(), prompt_S, max_tokens=len(wanted), temperature=1.0, top_k=1, seed=0
    )
    assert tokens_S.tolist() == wanted
    assert ended == "limit"
