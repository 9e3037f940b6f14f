"""Several songs written beside each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch

from khala.backbone import Backbone, BackboneConfig
from khala.backbone.blocks import BLOCK_FRAMES, BlockWriter
from khala.backbone.steps import has_compiled_steps, steps_of
from khala.backbone.writing import Writer, Writing, WritingSettings
from khala.errors import RequestError
from khala.nn import TrunkConfig, compiled
from khala.nn.compiled import CompiledSteps, NarrowCache
from khala.nn.inference import in_8_bits
from khala.tokens import ControlTokens, TokenLayout

CONTROL = ControlTokens(
    begin_of_text=20, end_of_text=21, begin_lyrics=22, end_line=23, separator=24, end_of_prompt=25,
    begin_audio=26, durations=(27, 28), duration_unit_s=1.0,
)  # fmt: skip
LAYOUT = TokenLayout(text_vocab_size=40, codebook_size=16, num_levels=6, control=CONTROL)
TRUNK = TrunkConfig(width=24, num_layers=2, num_heads=6, num_kv_heads=2, head_width=8, ffn_width=40)
CONFIG = BackboneConfig(trunk=TRUNK, layout=LAYOUT, max_positions=256)
PROMPT = (20, 3, 5, 24, 25, 26)
BARE = (20, 25, 26)
SETTINGS = WritingSettings(
    num_frames_min=0, num_frames_max=40, temperature=1.0, top_k=12, seed=3, guidance_scale=1.0
)


@pytest.fixture
def backbone() -> Backbone:
    """A model that ends some songs early, and whose matrices 8 bits hold exactly."""
    model = Backbone(CONFIG, seed=1)
    with torch.no_grad():
        model.lm_head.weight *= 20
        for parameter in model.parameters():
            if parameter.ndim == 2:
                narrow, scale = in_8_bits(parameter)
                parameter.copy_(narrow * scale[:, None])
    return model.eval()


def song(
    model: Backbone, seed: int = 3, prompt: Sequence[int] = PROMPT, **changes: object
) -> Writing:
    settings = dataclasses.replace(SETTINGS, seed=seed, **changes)  # type: ignore[arg-type]
    return Writing(model, prompt, settings, bare_S=BARE)


Make = Callable[[Backbone], Writer]


def plain(model: Backbone) -> Writer:
    return Writer(model, steps_of(model, has_int8_steps=False))


def compiled_steps(model: Backbone) -> Writer:
    return Writer(model, steps_of(model, has_int8_steps=True))


@pytest.fixture(params=[plain, compiled_steps, BlockWriter], ids=["plain", "compiled", "blocks"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a writer: by the library, compiled, or in blocks that are drawn on the device."""
    made: Make = request.param
    return made


def write(make: Make, model: Backbone, *songs: Writing) -> None:
    """Write songs beside each other to their ends."""
    writer = make(model)
    for one in songs:
        writer.begin(one)
    while not all(one.is_done for one in songs):
        writer.write_frame(songs)


def some(model: Backbone) -> list[Writing]:
    """Return songs of every kind: guided, greedy, short, of other prompts."""
    return [
        song(model, 1),
        song(model, 2, guidance_scale=2.0),
        song(model, 3, prompt=PROMPT[:4], num_frames_max=7),
        song(model, 4, temperature=0.0, num_frames_min=20),
        song(model, 5, guidance_scale=1.5, top_k=3),
        song(model, 6, prompt=PROMPT + PROMPT, temperature=0.7),
    ]


def test_a_song_is_the_same_alone_and_beside_others(make: Make, backbone: Backbone) -> None:
    """What a listener hears must not depend on who else is served at that moment."""
    together, alone = some(backbone), some(backbone)
    write(make, backbone, *together)
    for one, other in zip(alone, together, strict=True):
        write(make, backbone, one)
        assert torch.equal(one.codes_2T, other.codes_2T)
        assert one.ended == other.ended
    assert {one.ended for one in together} == {"end_token", "limit"}
    assert len({one.num_frames for one in together}) > 3


@pytest.mark.parametrize("way", [compiled_steps, BlockWriter])
def test_every_way_writes_the_same_songs(
    way: Make, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU must not make other music than a laptop; graphs of few positions included."""
    monkeypatch.setattr("khala.backbone.blocks.BUCKET", 16)
    by_library, other_way = some(backbone), some(backbone)
    write(plain, backbone, *by_library)
    write(way, backbone, *other_way)
    for one, other in zip(by_library, other_way, strict=True):
        assert torch.equal(one.codes_2T, other.codes_2T)
        assert one.ended == other.ended


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


def test_eight_bits_without_a_compiler(monkeypatch: pytest.MonkeyPatch, backbone: Backbone) -> None:
    """Nearly the same numbers, with activations in bfloat16, and whole songs."""
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)
    one = song(backbone, 1, num_frames_min=40)
    write(compiled_steps, backbone, one)
    assert (one.num_frames, one.ended) == (40, "limit")


def test_a_song_may_come_and_go_while_others_are_written(make: Make, backbone: Backbone) -> None:
    """A server admits songs when they come, and a listener who leaves frees the place."""
    first, late, left = song(backbone, 1, num_frames_min=40), song(backbone, 2), song(backbone, 6)
    writer = make(backbone)
    writer.begin(first)
    writer.begin(left)
    for _ in range(5):
        writer.write_frame([first, left])
    left.finish("cancelled")
    writer.begin(late)
    while not (first.is_done and late.is_done):
        writer.write_frame([first, late, left])
    assert left.num_frames <= 5 * BLOCK_FRAMES
    assert left.cache is None, "its memory is given back"
    for one, seed, least in ((first, 1, 40), (late, 2, 0)):
        alone = song(backbone, seed, num_frames_min=least)
        write(make, backbone, alone)
        assert torch.equal(one.codes_2T, alone.codes_2T)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_prompt_is_read_once_for_all_variants(
    make: Make, backbone: Backbone, scale: float
) -> None:
    """Four variants of a song wait for one reading of their prompt, and are what they would be."""
    first, second = (song(backbone, seed, guidance_scale=scale) for seed in (1, 2))
    assert second.has_prompts_of(first)
    assert not second.has_prompts_of(song(backbone, 1, prompt=PROMPT[:4], guidance_scale=scale))
    assert not song(backbone, 1, guidance_scale=3.0 - scale).has_prompts_of(first)
    writer = make(backbone)
    writer.begin(first)
    writer.write_frame([first])
    backbone.hidden = None  # type: ignore[assignment, method-assign]
    writer.begin(second, donor=first)
    del backbone.hidden
    while not (first.is_done and second.is_done):
        writer.write_frame([first, second])
    for one, seed in ((first, 1), (second, 2)):
        alone = song(backbone, seed, guidance_scale=scale)
        write(make, backbone, alone)
        assert torch.equal(one.codes_2T, alone.codes_2T)


def test_what_breaks_one_song_breaks_no_other(make: Make, backbone: Backbone) -> None:
    """One broken number must cost one song its rest, and nobody else anything."""
    broken, well = song(backbone, 1, num_frames_min=40), song(backbone, 2, num_frames_min=40)
    writer = make(backbone)
    for one in (broken, well):
        writer.begin(one)
    while broken.num_frames < 10:
        writer.write_frame([broken, well])
    before = broken.num_frames
    with torch.inference_mode():
        if isinstance(broken.cache, NarrowCache):
            broken.cache.streams[0].value_scales_LGS[0, :, 3] = float("nan")
        else:
            broken.cache.values[0][0, :, 3] = torch.nan
    while not (broken.is_done and well.is_done):
        writer.write_frame([broken, well])
    assert broken.failed is not None
    assert "not finite at level 1" in str(broken.failed), "the first scores after it was read"
    assert broken.num_frames == before
    alone = song(backbone, 2, num_frames_min=40)
    write(make, backbone, alone)
    assert torch.equal(well.codes_2T, alone.codes_2T)


def test_settings_that_make_no_sense(backbone: Backbone) -> None:
    """Said before anything is computed."""
    for changes in (
        {"num_frames_max": 0}, {"num_frames_min": 41}, {"top_k": 0}, {"temperature": -0.5},
        {"temperature": float("nan")}, {"num_frames_max": 1000},
    ):  # fmt: skip
        with pytest.raises(RequestError):
            song(backbone, **changes)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="bare"):
        Writing(backbone, PROMPT, dataclasses.replace(SETTINGS, guidance_scale=2.0))
