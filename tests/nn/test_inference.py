"""The trunk laid out for inference, against the trunk it was laid out from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from khala.nn import Trunk, TrunkConfig, init_weights
from khala.nn.inference import InferenceTrunk, block_linear, in_8_bits, int8_linear

CONFIG = TrunkConfig(
    width=64, num_layers=3, num_heads=6, num_kv_heads=2, head_width=16, ffn_width=96,
    double_fc1_bias=True,
)  # fmt: skip
DTYPES = (torch.float32, torch.bfloat16)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def trunk() -> Trunk:
    """A trunk whose every parameter matters, biases and norms included."""
    made = Trunk(CONFIG, max_positions=64)
    init_weights(made, CONFIG, seed=0)
    with torch.no_grad():
        for index, parameter in enumerate(made.parameters()):
            parameter += 0.1 * rows(*parameter.shape, seed=index)
    return made.eval()


@torch.inference_mode()
def test_a_whole_stream_equals_the_trunk(trunk: Trunk) -> None:
    """Super-resolution in use must be the model that was trained."""
    hidden_SD = rows(40, CONFIG.width)
    wanted = trunk.transform(hidden_SD[None], causal=False)[0]
    torch.testing.assert_close(InferenceTrunk(trunk).whole(hidden_SD, [40]), wanted)
    narrow = InferenceTrunk(trunk, torch.bfloat16).whole(hidden_SD, [40])
    assert narrow.dtype == torch.float32, "only the products are narrow"
    error = (narrow - wanted).square().mean().sqrt()
    assert 0.0 < float(error) < 0.02 * float(wanted.square().mean().sqrt())


@torch.inference_mode()
def test_streams_beside_each_other_do_not_see_each_other(trunk: Trunk) -> None:
    """Several songs in one pass must each be the song that it is alone."""
    laid_out, lengths = InferenceTrunk(trunk), [7, 23, 1, 9]
    hidden_RD = rows(sum(lengths), CONFIG.width)
    together = torch.split(laid_out.whole(hidden_RD, lengths), lengths)
    for own, hidden_SD in zip(together, torch.split(hidden_RD, lengths), strict=True):
        torch.testing.assert_close(own, laid_out.whole(hidden_SD, [len(hidden_SD)]))


@torch.inference_mode()
def test_steps_equal_reading_the_stream_whole(trunk: Trunk) -> None:
    """A cache that loses or doubles a position makes the song forget what it has sung."""
    streams = rows(2, 20, CONFIG.width)
    wanted = trunk.transform(streams, causal=True)
    laid_out, cache = InferenceTrunk(trunk), trunk.new_cache(2, 20)
    trunk.transform(streams[:, :9], causal=True, cache=cache)
    for place in range(9, 20):
        hidden_RD = laid_out.step(streams[:, place], [cache])
        torch.testing.assert_close(hidden_RD, wanted[:, place])
    assert cache.lengths == [20, 20]


@torch.inference_mode()
def test_rows_of_one_cache_may_have_different_lengths(trunk: Trunk) -> None:
    """A bare prompt may be shorter than the prompt it is compared with."""
    streams = rows(2, 12, CONFIG.width)
    cache = trunk.new_cache(2, 13)
    for index, length in enumerate((12, 7)):
        row = cache.row(index)
        trunk.transform(streams[index : index + 1, :length], causal=True, cache=row)
        cache.lengths[index] = length
    after = rows(2, CONFIG.width, seed=1)
    together = InferenceTrunk(trunk).step(after, [cache])
    for index, length in enumerate((12, 7)):
        alone = torch.cat((streams[index, :length], after[index : index + 1]))
        wanted = trunk.transform(alone[None], causal=True)[0, -1]
        torch.testing.assert_close(together[index], wanted)


@torch.inference_mode()
def test_eight_bits_are_nearly_as_good(trunk: Trunk) -> None:
    """A quarter of the bytes must not be another song's: each row has a scale of its own."""
    with torch.no_grad():
        for layer in trunk.layers:
            layer.mlp.down_proj.weight[3] *= 100.0  # one scale for all would lose the others
    streams = rows(2, 10, CONFIG.width)
    wanted = trunk.transform(streams, causal=True)[:, -1]
    cache = trunk.new_cache(2, 10)
    trunk.transform(streams[:, :9], causal=True, cache=cache)
    made = InferenceTrunk(trunk, has_int8_steps=True).step(streams[:, 9], [cache])
    error = (made - wanted).square().mean().sqrt()
    assert 0.0 < float(error) < 0.03 * float(wanted.square().mean().sqrt())


@torch.inference_mode()
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_its_neighbours(
    trunk: Trunk, dtype: torch.dtype, int8: bool
) -> None:
    """The same song alone and beside others, bit for bit: nobody's music hangs on the queue."""
    trunk = trunk.to(dtype)
    trunk.fill_rope()
    laid_out = InferenceTrunk(trunk, has_int8_steps=int8)
    sizes, lengths = (1, 2, 1, 1, 2, 2, 1), (3, 9, 5, 30, 2, 17, 9)

    def read(songs: tuple[int, ...]) -> list[Tensor]:
        caches, after = [], []
        for song in songs:
            cache = trunk.new_cache(sizes[song], lengths[song] + 1)
            before = rows(sizes[song], lengths[song], CONFIG.width, seed=song).to(dtype)
            trunk.transform(before, causal=True, cache=cache)
            caches.append(cache)
            after.append(rows(sizes[song], CONFIG.width, seed=10 + song).to(dtype))
        hidden_RD = laid_out.step(torch.cat(after), caches)
        return list(torch.split(hidden_RD, [sizes[song] for song in songs]))

    together = read(tuple(range(7)))
    for song in range(7):
        assert torch.equal(read((song,))[0], together[song])
    assert torch.equal(read((5, 0, 3))[2], together[3])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(256, 512), (704, 256), (256, 1025), (48, 7)])
def test_blocks_of_rows(dtype: torch.dtype, inputs: int, outputs: int) -> None:
    """At the bundled model's sizes too, in any order and number, and nearly what F.linear gives."""
    x_RI = rows(37, inputs).to(dtype)
    weight_OI, bias_O = (
        rows(*shape, seed=1).to(dtype) for shape in ((outputs, inputs), (outputs,))
    )
    whole = block_linear(x_RI, weight_OI, bias_O)
    torch.testing.assert_close(whole, F.linear(x_RI, weight_OI, bias_O), atol=2e-3, rtol=2e-2)
    for some in ([0], [36], [5, 6], [9, 3, 30], list(range(36, -1, -1))):
        assert torch.equal(block_linear(x_RI[some], weight_OI, bias_O), whole[some])


@pytest.mark.parametrize("inputs", [7, 24, 40, 48, 100])
@pytest.mark.parametrize("outputs", [5, 80])
def test_eight_bits_at_any_size(inputs: int, outputs: int) -> None:
    """The library's kernel reads past rows of other sizes than it likes: garbage, or a crash."""
    x_RI, weight_OI = rows(3, inputs), rows(outputs, inputs, seed=1)
    narrow_OI, scale_O = in_8_bits(weight_OI, torch.bfloat16)
    made = int8_linear(x_RI, narrow_OI, scale_O).float()
    torch.testing.assert_close(made, x_RI @ weight_OI.T, atol=0.3, rtol=0.05)
