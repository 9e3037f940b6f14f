"""The trunk against slow, obvious versions of itself."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from khala.errors import ConfigError, TokenError
from khala.nn import Trunk, TrunkConfig, init_weights
from khala.nn.blocked import BLOCK, blocked_attention
from khala.nn.init import hidden_std

CONFIG = TrunkConfig(
    width=24, num_layers=2, num_heads=6, num_kv_heads=2, head_width=8, ffn_width=40
)


def small_trunk(config: TrunkConfig = CONFIG, max_positions: int = 64) -> Trunk:
    """Return a trunk whose every parameter matters, biases and norms included."""
    trunk = Trunk(config, max_positions=max_positions)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            parameter.normal_(0.0, 0.25, generator=generator)
            if name.endswith("norm.weight"):
                parameter.add_(1.0)
    return trunk.eval()


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt() * weight


def slow_rotate(x_K: Tensor, position: int, base: float) -> Tensor:
    half = x_K.shape[0] // 2
    out = torch.empty_like(x_K)
    for i in range(half):
        angle = position * base ** (-2 * i / x_K.shape[0])
        c, s = math.cos(angle), math.sin(angle)
        out[i] = x_K[i] * c - x_K[i + half] * s
        out[i + half] = x_K[i + half] * c + x_K[i] * s
    return out


def slow_trunk(trunk: Trunk, hidden_SD: Tensor, *, causal: bool) -> Tensor:
    """The published architecture, one head and one position at a time."""
    config = trunk.trunk_config
    x = hidden_SD.double()
    weights = {name: tensor.double() for name, tensor in trunk.state_dict().items()}
    width, group = config.head_width, config.num_heads // config.num_kv_heads
    num = x.shape[0]
    twice = 2 if config.double_fc1_bias else 1

    def linear(y: Tensor, name: str, times: int = 1) -> Tensor:
        return y @ weights[f"{name}.weight"].T + times * weights[f"{name}.bias"]

    for i in range(config.num_layers):
        at = f"layers.{i}."
        y = slow_norm(x, weights[at + "input_norm.weight"], config.norm_eps)
        q, k, v = (linear(y, f"{at}attn.{name}_proj") for name in "qkv")
        out = torch.zeros(num, config.num_heads * width, dtype=torch.float64)
        for head in range(config.num_heads):
            mine, theirs = slice(head * width, (head + 1) * width), head // group
            its = slice(theirs * width, (theirs + 1) * width)
            for s in range(num):
                seen = range(s + 1) if causal else range(num)
                query = slow_rotate(q[s, mine], s, config.rope_base)
                scores = [query @ slow_rotate(k[t, its], t, config.rope_base) for t in seen]
                shares = (torch.stack(scores) / math.sqrt(width)).softmax(dim=0)
                out[s, mine] = sum(p * v[t, its] for p, t in zip(shares, seen, strict=True))
        x = x + linear(out, at + "attn.o_proj")
        y = slow_norm(x, weights[at + "post_attn_norm.weight"], config.norm_eps)
        gate = linear(y, at + "mlp.gate_proj", twice)
        up = linear(y, at + "mlp.up_proj", twice)
        x = x + linear(gate * torch.sigmoid(gate) * up, at + "mlp.down_proj")
    return slow_norm(x, weights["norm.weight"], config.norm_eps)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("double", [True, False])
@torch.inference_mode()
def test_equals_the_slow_version(causal: bool, double: bool) -> None:
    """Three query heads per KV head: a grouping that only works for four would be noise here."""
    trunk = small_trunk(dataclasses.replace(CONFIG, double_fc1_bias=double))
    hidden_BSD = rows(2, 12, 24)
    ours = trunk.transform(hidden_BSD, causal=causal)
    for item in range(2):
        theirs = slow_trunk(trunk, hidden_BSD[item, :], causal=causal)
        torch.testing.assert_close(ours[item].double(), theirs, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_cache_equals_whole_in_any_pieces() -> None:
    """A song written token by token must be the song the model would have scored as a whole."""
    trunk, hidden_BSD = small_trunk(), rows(2, 12, 24)
    whole = trunk.transform(hidden_BSD, causal=True)
    for pieces in ([12], [1] * 12, [5, 1, 3, 1, 2], [3, 9]):
        cache = trunk.new_cache(2, 12)
        parts = [
            trunk.transform(part, causal=True, cache=cache) for part in hidden_BSD.split(pieces, 1)
        ]
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)
        assert cache.lengths == [12, 12]


@torch.inference_mode()
def test_rows_of_different_length_decode_together() -> None:
    """Songs that started at other times share a batch without hearing each other."""
    trunk, hidden_BSD = small_trunk(), rows(2, 16, 24)
    whole = trunk.transform(hidden_BSD, causal=True)
    starts = (9, 4)
    cache = trunk.new_cache(2, 16)
    for row, start in enumerate(starts):
        trunk.transform(hidden_BSD[row : row + 1, :start], causal=True, cache=cache.row(row))
        cache.lengths[row] = start
    for step in (1, 1, 3, 2):
        here = cache.lengths[:]
        new = torch.stack([hidden_BSD[b, at : at + step] for b, at in enumerate(here)])
        out = trunk.transform(new, causal=True, cache=cache)
        for b, at in enumerate(here):
            torch.testing.assert_close(out[b], whole[b, at : at + step], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_songs_packed_in_one_row_do_not_hear_each_other() -> None:
    """Packing is for speed; a song that hears its neighbour learns to quote it."""
    trunk, hidden_BSD = small_trunk(), rows(1, 18, 24)
    for causal in (True, False):
        packed = trunk.transform(hidden_BSD, causal=causal, lengths=[7, 1, 10])
        for part in (slice(0, 7), slice(7, 8), slice(8, 18)):
            alone = trunk.transform(hidden_BSD[:, part], causal=causal)
            torch.testing.assert_close(packed[:, part], alone, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="do not fill a row of 18"):
        trunk.transform(hidden_BSD, causal=True, lengths=[7, 10])
    with pytest.raises(ValueError, match="in one row"):
        trunk.transform(rows(2, 18, 24), causal=True, lengths=[18])


@pytest.mark.parametrize("kind", ["causal", "two-sided", "keys", "full"])
def test_blocks_equal_the_library(kind: str) -> None:
    """The fast path of a CPU must be the same attention, or songs differ between machines."""
    num = BLOCK + 70
    q = rows(2, 6, num, 8, seed=1).requires_grad_()
    k, v = rows(2, 2, num, 8, seed=2), rows(2, 2, num, 8, seed=3)
    mask = None
    if kind == "keys":
        mask = (torch.arange(num) < torch.tensor([[num], [num - 30]]))[:, None, None]
    elif kind == "full":
        mask = torch.ones(num, num, dtype=torch.bool).tril()[None, None].expand(2, 1, -1, -1)
    causal = kind == "causal"
    ours = blocked_attention(q, k, v, mask=mask, is_causal=causal)
    theirs = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    (grad,) = torch.autograd.grad(ours.square().sum(), q)
    (wanted,) = torch.autograd.grad(theirs.square().sum(), q)
    torch.testing.assert_close(grad, wanted, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_bfloat16_stays_close() -> None:
    """Half the bits are a matter of speed: they may blur a little, not change the music."""
    trunk, hidden_BSD = small_trunk(), rows(2, 40, 24)
    exact = trunk.transform(hidden_BSD, causal=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = trunk.transform(hidden_BSD, causal=True)
    assert F.cosine_similarity(exact.flatten(), rough.float().flatten(), dim=0) > 0.999


def test_starting_weights_follow_the_formula() -> None:
    """A model that starts too loud or too quiet wastes the first hour of training, silently."""
    config = TrunkConfig(
        width=128, num_layers=4, num_heads=4, num_kv_heads=2, head_width=32, ffn_width=256
    )
    trunk = Trunk(config, max_positions=8)
    init_weights(trunk, config, seed=3)
    assert hidden_std(2048) == pytest.approx(0.02)
    for name, parameter in trunk.named_parameters():
        if name.endswith("norm.weight"):
            assert bool((parameter == 1).all())
        elif name.endswith(".bias"):
            assert bool((parameter == 0).all())
        else:
            residual = "o_proj" in name or "down_proj" in name
            wanted = 0.02 * math.sqrt(2048 / 128) / (math.sqrt(8) if residual else 1.0)
            assert float(parameter.detach().std()) == pytest.approx(wanted, rel=0.05), name
    again = Trunk(config, max_positions=8)
    init_weights(again, config, seed=3)
    assert all(
        torch.equal(a, b) for a, b in zip(trunk.parameters(), again.parameters(), strict=True)
    )


def test_too_long_and_misused() -> None:
    """Positions past the table must be an error with numbers, not a crash deep inside."""
    trunk = small_trunk(max_positions=8)
    with pytest.raises(TokenError, match="9 positions"):
        trunk.transform(rows(1, 9, 24), causal=True)
    with pytest.raises(TokenError, match="cache of 4"):
        trunk.transform(rows(1, 5, 24), causal=True, cache=trunk.new_cache(1, 4))
    with pytest.raises(ValueError, match="causal"):
        trunk.transform(rows(1, 2, 24), causal=False, cache=trunk.new_cache(1, 4))


@pytest.mark.parametrize(
    "change",
    [{"width": 0}, {"num_kv_heads": 4}, {"head_width": 7}, {"norm_eps": 0.0}, {"num_layers": True}],
)
def test_impossible_sizes_are_refused(change: dict[str, object]) -> None:
    """A recipe with a slip must say which field is wrong before a night of training."""
    with pytest.raises(ConfigError):
        dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
