"""Tables that start from the codec's vectors."""

import pytest
import torch

from khala.backbone import Backbone, BackboneConfig, start_tables
from khala.nn import TrunkConfig
from khala.tokens import nano_layout

TRUNK = TrunkConfig(width=64, num_layers=1, num_heads=2, num_kv_heads=1, head_width=32, ffn_width=8)


def test_codes_that_sound_alike_begin_alike() -> None:
    """Rows that know nothing cost the model most of a short training."""
    layout = nano_layout()
    backbone = Backbone(BackboneConfig(trunk=TRUNK, layout=layout, max_positions=8), seed=0)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    vectors = [5.0 + torch.randn(1024, width, generator=generator) for width in (40, 32)]
    vectors[1][7] = vectors[1][6]
    start_tables(backbone, vectors, seed=0)
    for name in ("embed.weight", "lm_head.weight"):
        rows = backbone.state_dict()[name][layout.first_id(1) : layout.first_id(1) + 1024]
        like = torch.cosine_similarity(rows[6], rows[7], dim=0)
        others = torch.cosine_similarity(rows[6:7], rows[8:], dim=1)
        assert float(like) > 0.6 > float(others.abs().mean())
        old = before[name][layout.first_id(1) :][:1024]
        assert float(rows.std()) == pytest.approx(float(old.std()), rel=0.1)
        text = slice(0, layout.text_vocab_size)
        assert torch.equal(backbone.state_dict()[name][text], before[name][text])
    with pytest.raises(ValueError, match="1023 vectors"):
        start_tables(backbone, [vectors[0][:1023]])
