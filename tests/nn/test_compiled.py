"""Single tokens in machine code, against the library's operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from khala.errors import TokenError
from khala.nn import Trunk, TrunkConfig, init_weights
from khala.nn.compiled import CompiledSteps, NarrowCache, narrow_cache_bytes
from khala.nn.inference import InferenceTrunk, in_8_bits

CONFIG = TrunkConfig(
    width=64, num_layers=3, num_heads=4, num_kv_heads=2, head_width=16, ffn_width=96,
    double_fc1_bias=True,
)  # fmt: skip
ODD = TrunkConfig(
    width=31, num_layers=2, num_heads=6, num_kv_heads=2, head_width=18, ffn_width=37
)  # fmt: skip


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def narrow_trunk(config: TrunkConfig) -> Trunk:
    """A trunk whose every parameter matters and whose matrices 8 bits hold exactly."""
    made = Trunk(config, max_positions=2048)
    init_weights(made, config, seed=0)
    with torch.no_grad():
        for index, parameter in enumerate(made.parameters()):
            parameter += 0.1 * rows(*parameter.shape, seed=index)
            if parameter.ndim == 2:
                narrow, scale = in_8_bits(parameter)
                parameter.copy_(narrow * scale[:, None])
    return made.eval()


def read(steps: CompiledSteps, trunk: Trunk, lengths: list[int], seed: int) -> NarrowCache:
    """A song whose streams have read so much."""
    cache = steps.new_cache(len(lengths), max(lengths) + 8)
    for stream, length in enumerate(lengths):
        own = trunk.new_cache(1, length)
        before = rows(1, length, trunk.trunk_config.width, seed=seed + stream)
        trunk.transform(before, causal=True, cache=own)
        cache.take(stream, own)
    return cache


@torch.inference_mode()
@pytest.mark.parametrize("config", [CONFIG, ODD])
def test_steps_equal_the_trunk(config: TrunkConfig) -> None:
    """Odd sizes too: groups of three heads, widths that no register divides, many positions."""
    trunk = narrow_trunk(config)
    steps = CompiledSteps(trunk, [])
    streams = rows(2, 1103, config.width)
    wanted = trunk.transform(streams, causal=True)
    cache = steps.new_cache(2, 1103)
    for stream, start in enumerate((1095, 1091)):
        own = trunk.new_cache(1, start)
        trunk.transform(streams[stream : stream + 1, :start], causal=True, cache=own)
        cache.take(stream, own)
    for place in range(8):
        after = torch.stack((streams[0, 1095 + place], streams[1, 1091 + place]))
        made = steps.step(after, [cache])
        aims = torch.stack((wanted[0, 1095 + place], wanted[1, 1091 + place]))
        torch.testing.assert_close(made, aims, atol=2e-4, rtol=2e-4)
    assert cache.lengths == [1103, 1099]


@torch.inference_mode()
def test_every_layer_and_weight_is_read() -> None:
    """A weight that changes nothing would be one that is not there."""
    trunk = narrow_trunk(CONFIG)
    token = rows(1, CONFIG.width, seed=9)

    def made() -> Tensor:
        steps = CompiledSteps(trunk, [])
        return steps.step(token, [read(steps, trunk, [5], 0)])

    before = made()
    for name, parameter in trunk.named_parameters():
        if name.endswith("k_proj.bias"):
            continue  # the same for every position: softmax does not see it
        kept = parameter.clone()
        parameter.view(-1)[:40] += 0.5
        assert not torch.equal(made(), before), name
        parameter.copy_(kept)
    assert torch.equal(made(), before)


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_song_does_not_depend_on_its_neighbours(threads: int) -> None:
    """Bit for bit, on any number of cores."""
    trunk = narrow_trunk(CONFIG)
    steps = CompiledSteps(trunk, [])
    lengths = [[3, 9], [30], [2, 2], [17]]

    def together(songs: list[int]) -> list[Tensor]:
        caches = [read(steps, trunk, lengths[song], 10 * song) for song in songs]
        tokens = [rows(len(lengths[song]), CONFIG.width, seed=100 + song) for song in songs]
        made = steps.step(torch.cat(tokens), caches)
        return list(torch.split(made, [len(lengths[song]) for song in songs]))

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        everyone = together([0, 1, 2, 3])
        for song in range(4):
            assert torch.equal(together([song])[0], everyone[song])
        assert torch.equal(together([3, 0])[1], everyone[0])
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def test_what_a_variant_copies_is_what_was_read() -> None:
    """Variants share the reading of the prompt and nothing after it."""
    trunk = narrow_trunk(CONFIG)
    steps = CompiledSteps(trunk, [])
    first = read(steps, trunk, [6, 4], 0)
    steps.step(rows(2, CONFIG.width, seed=1), [first])
    variant = steps.new_cache(2, 20)
    variant.copy_from(first, [6, 4])
    token = rows(2, CONFIG.width, seed=2)
    assert torch.equal(
        steps.step(token, [variant]), steps.step(token, [read(steps, trunk, [6, 4], 0)])
    )
    assert variant.lengths == [7, 5]


def test_what_is_kept_is_what_was_planned() -> None:
    """A song is admitted by this number."""
    cache = NarrowCache(ODD, 2, 50)
    held = sum(array.nbytes for stream in cache.streams for array in stream)
    assert held == 2 * narrow_cache_bytes(ODD, 50)


def test_a_full_cache_says_so() -> None:
    """Machine code writes wherever it is told to."""
    trunk = narrow_trunk(CONFIG)
    steps = CompiledSteps(trunk, [])
    cache = steps.new_cache(1, 2)
    token = rows(1, CONFIG.width)
    steps.step(token, [cache])
    steps.step(token, [cache])
    with pytest.raises(TokenError, match="2 positions is full"):
        steps.step(token, [cache])


def test_scores_that_are_no_numbers_come_through() -> None:
    """A broken song must be seen to be broken: bounds on exponents must not hide it."""
    trunk = narrow_trunk(CONFIG)
    steps = CompiledSteps(trunk, [torch.ones(3, CONFIG.width)])
    token = rows(1, CONFIG.width)
    token[0, 5] = torch.nan
    hidden = steps.step(token, [steps.new_cache(1, 2)])
    assert not bool(hidden.isfinite().any())
    assert not bool(steps.scores(hidden, 0).isfinite().any())


def test_exponents() -> None:
    """Shares and gates are made of them."""
    from khala.nn.jit import exp

    for x in np.linspace(-86, 80, 4001, dtype=np.float32):
        assert abs(float(exp(x)) / float(np.exp(np.float64(x))) - 1) < 3e-7
    assert 0.0 <= float(exp(np.float32(-500.0))) < 1e-37
    assert float(exp(np.float32(0.0))) == 1.0


@torch.inference_mode()
def test_eight_bits_are_nearly_as_good() -> None:
    """Weights that 8 bits do not hold: each output has a scale of its own."""
    trunk = Trunk(CONFIG, max_positions=64)
    init_weights(trunk, CONFIG, seed=0)
    streams = rows(1, 10, CONFIG.width)
    wanted = trunk.transform(streams, causal=True)[:, -1]
    cache = trunk.new_cache(1, 9)
    trunk.transform(streams[:, :9], causal=True, cache=cache)
    steps = CompiledSteps(trunk, [])
    kept = steps.new_cache(1, 10)
    kept.take(0, cache)
    error = (steps.step(streams[:, 9], [kept]) - wanted).square().mean().sqrt()
    plain = InferenceTrunk(trunk, has_int8_steps=True)
    room = trunk.new_cache(1, 10)
    room.take(0, cache)
    theirs = (plain.step(streams[:, 9], [room]) - wanted).square().mean().sqrt()
    assert 0.0 < float(error) < float(theirs)
