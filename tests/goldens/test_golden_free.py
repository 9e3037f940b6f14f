"""Free sampling as published, against the published architecture's own greedy stream (set A)."""

from __future__ import annotations

from golden_sets import recorded, sizes_of, tensors_of, trunk_of
from golden_weights import ROWS
from torch import from_numpy

from khala.backbone import Backbone, BackboneConfig
from khala.backbone.free import generate_free
from khala.tokens import published_layout


def test_greedy_stream_of_the_published_program() -> None:
    """The mode that claims to do as published must write the published ids, text among them."""
    backbone = Backbone(
        BackboneConfig(
            trunk=trunk_of(sizes_of("A")),
            layout=published_layout(),
            max_positions=256,
            num_rows=ROWS["backbone"],
        )
    )
    tensors = tensors_of("backbone", "A")
    backbone.load_state_dict({name: from_numpy(one) for name, one in tensors.items()})
    golden = recorded("backbone")
    prompt_S, wanted = golden["prompt_ids"].tolist(), golden["greedy_free"].tolist()
    tokens_S, ended = generate_free(
        backbone.eval(), prompt_S, max_tokens=len(wanted), temperature=1.0, top_k=1, seed=0
    )
    assert tokens_S.tolist() == wanted
    assert ended == "limit"
