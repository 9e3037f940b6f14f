"""How a backbone reads single tokens."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from khala.backbone import Backbone, BackboneConfig
from khala.backbone.steps import has_compiled_steps, steps_of
from khala.backbone.writing import Writer, Writing, WritingSettings
from khala.nn import TrunkConfig, compiled
from khala.nn.compiled import CompiledSteps
from khala.nn.inference import in_8_bits
from khala.tokens import ControlTokens, TokenLayout

pytest.importorskip("numba")

CONTROL = ControlTokens(
    begin_of_text=20, end_of_text=21, begin_lyrics=22, end_line=23, separator=24, end_of_prompt=25,
    begin_audio=26, durations=(27, 28), duration_unit_s=1.0,
)  # fmt: skip
LAYOUT = TokenLayout(text_vocab_size=40, codebook_size=16, num_levels=6, control=CONTROL)
TRUNK = TrunkConfig(width=24, num_layers=2, num_heads=6, num_kv_heads=2, head_width=8, ffn_width=40)
CONFIG = BackboneConfig(trunk=TRUNK, layout=LAYOUT, max_positions=256)
PROMPT = (20, 3, 5, 24, 25, 26)
BARE = (20, 25, 26)


@pytest.fixture
def backbone() -> Backbone:
    """A model whose matrices 8 bits hold exactly."""
    model = Backbone(CONFIG, seed=1)
    with torch.no_grad():
        model.lm_head.weight *= 20
        for parameter in model.parameters():
            if parameter.ndim == 2:
                narrow, scale = in_8_bits(parameter)
                parameter.copy_(narrow * scale[:, None])
    return model.eval()


def test_who_is_compiled(monkeypatch: pytest.MonkeyPatch, backbone: Backbone) -> None:
    """Large trunks, other numbers, other devices and computers without numba go the plain way."""
    assert has_compiled_steps(backbone)
    assert isinstance(steps_of(backbone, has_int8_steps=True), CompiledSteps)
    assert not isinstance(steps_of(backbone, has_int8_steps=False), CompiledSteps)
    assert not compiled.suits(TRUNK, "cuda")
    large = dataclasses.replace(TRUNK, width=2048, ffn_width=5632)
    assert not compiled.suits(large, "cpu")
    assert not has_compiled_steps(backbone.to(torch.bfloat16))
    backbone.to(torch.float32)
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)
    assert not has_compiled_steps(backbone)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_songs_are_those_of_the_plain_way(
    monkeypatch: pytest.MonkeyPatch, backbone: Backbone, guidance: float
) -> None:
    """With weights that 8 bits hold, sampled codes are those of float32."""

    def song(has_int8_steps: bool) -> list[list[int]]:
        settings = WritingSettings(
            num_frames_min=40, num_frames_max=40, temperature=1.0, top_k=50, seed=3,
            guidance_scale=guidance,
        )  # fmt: skip
        writing = Writing(backbone, PROMPT, settings, bare_S=BARE)
        writer = Writer(backbone, steps_of(backbone, has_int8_steps=has_int8_steps))
        writer.begin(writing)
        while not writing.is_done:
            writer.write_frame([writing])
        return writing.codes_2T.tolist()

    assert song(True) == song(False)
    # without numba: activations in bfloat16, so nearly the same numbers, and still a song
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)
    assert len(song(True)[0]) == 40
