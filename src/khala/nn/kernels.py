"""A token's way through a trunk in machine code: matrices in 8 bits, keys and values in 16.

Importing this needs numba; see `khala.nn.jit`. One call is one stream on one core, and every sum
is taken in one fixed order.
Wherever numbers are multiplied, four rows of a matrix are added at a time to all outputs, so that
neighbouring outputs stay beside each other in vector registers.

Shape letters: L layers, D width, I inputs, O outputs, G KV heads, H query heads of one of them,
S stream positions, K head width.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from khala.nn.jit import compiled, exp

__all__ = ["Floats", "Kept", "Matrices", "Weights", "multiply", "put_all", "step"]

Floats: TypeAlias = npt.NDArray[np.float32]

LARGEST = np.float32(32767)
"""Of a 16-bit number; the largest of a key or value becomes it."""

PIECE = 512
"""Positions whose scores are summed at once, so that they stay in a core's nearest cache."""


class Matrices(NamedTuple):
    """The same matrix of every layer in 8 bits, inputs first."""

    weight_LIO: npt.NDArray[np.int8]
    scale_LO: Floats
    bias_LO: Floats


class Weights(NamedTuple):
    """All layers of a trunk."""

    first_norm_LD: Floats
    qkv: Matrices
    out: Matrices
    second_norm_LD: Floats
    gate_up: Matrices
    down: Matrices
    last_norm_D: Floats
    cos_SK: Floats
    sin_SK: Floats
    eps: float


class Kept(NamedTuple):
    """Keys and values of one stream; each has a scale of its own."""

    keys_LGKS: npt.NDArray[np.int16]
    """Already turned to their positions; positions beside each other, as scores are."""

    key_scales_LGS: Floats
    values_LGSK: npt.NDArray[np.int16]
    value_scales_LGS: Floats


@compiled
def step(token_D: Floats, weights: Weights, kept: Kept, place: int) -> Floats:
    """Read one token at a position; its keys and values are put where the stream's are kept.

    Args:
        token_D: embedded; it is not changed.
        weights: of the trunk.
        kept: with room for one more.
        place: the token's position, which is how many are kept.

    Returns:
        hidden_D after the final norm.
    """
    hidden_D = token_D.copy()
    num_groups, width = kept.values_LGSK.shape[1], kept.values_LGSK.shape[3]
    num_inputs = weights.out.weight_LIO.shape[1]
    per_group = num_inputs // width // num_groups
    keys_at, values_at = num_inputs, num_inputs + num_groups * width
    y_I = np.empty(num_inputs, np.float32)
    for layer in range(weights.first_norm_LD.shape[0]):
        x_D = _normed(hidden_D, weights.first_norm_LD[layer], weights.eps)
        qkv_O = _of_layer(x_D, weights.qkv, layer)
        _turn(qkv_O[:values_at], weights.cos_SK[place], weights.sin_SK[place])
        for group in range(num_groups):
            key_K = qkv_O[keys_at + group * width : keys_at + (group + 1) * width]
            value_K = qkv_O[values_at + group * width : values_at + (group + 1) * width]
            _put(kept, layer, group, place, key_K, value_K)
            heads = slice(group * per_group * width, (group + 1) * per_group * width)
            _attend(
                qkv_O[heads].reshape(per_group, width),
                kept.keys_LGKS[layer, group],
                kept.key_scales_LGS[layer, group],
                kept.values_LGSK[layer, group],
                kept.value_scales_LGS[layer, group],
                place + 1,
                y_I[heads].reshape(per_group, width),
            )
        hidden_D += _of_layer(y_I, weights.out, layer)
        x_D = _normed(hidden_D, weights.second_norm_LD[layer], weights.eps)
        inner_I = _gated(_of_layer(x_D, weights.gate_up, layer))
        hidden_D += _of_layer(inner_I, weights.down, layer)
    return _normed(hidden_D, weights.last_norm_D, weights.eps)


@compiled
def put_all(kept: Kept, layer: int, keys_GSK: Floats, values_GSK: Floats) -> None:
    """Keep keys and values of the first positions of a layer."""
    for group in range(keys_GSK.shape[0]):
        for place in range(keys_GSK.shape[1]):
            _put(kept, layer, group, place, keys_GSK[group, place], values_GSK[group, place])


@compiled
def _put(kept: Kept, layer: int, group: int, place: int, key_K: Floats, value_K: Floats) -> None:
    """Keep the key and the value of a position."""
    scale = _largest(key_K) / LARGEST
    kept.key_scales_LGS[layer, group, place] = scale
    for i in range(len(key_K)):
        kept.keys_LGKS[layer, group, i, place] = np.int16(np.rint(key_K[i] / scale))
    scale = _largest(value_K) / LARGEST
    kept.value_scales_LGS[layer, group, place] = scale
    for i in range(len(value_K)):
        kept.values_LGSK[layer, group, place, i] = np.int16(np.rint(value_K[i] / scale))


@compiled
def multiply(
    x_I: Floats, weight_IO: npt.NDArray[np.int8], scale_O: Floats, bias_O: Floats
) -> Floats:
    """Return y_O: a row times a matrix whose columns have scales and biases."""
    y_O = np.zeros(len(scale_O), np.float32)
    whole = len(x_I) - len(x_I) % 4
    for i in range(0, whole, 4):
        x0, x1, x2, x3 = x_I[i], x_I[i + 1], x_I[i + 2], x_I[i + 3]
        for o in range(len(y_O)):
            w0, w1 = np.float32(weight_IO[i, o]), np.float32(weight_IO[i + 1, o])
            w2, w3 = np.float32(weight_IO[i + 2, o]), np.float32(weight_IO[i + 3, o])
            y_O[o] += w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
    for i in range(whole, len(x_I)):
        for o in range(len(y_O)):
            y_O[o] += np.float32(weight_IO[i, o]) * x_I[i]
    for o in range(len(y_O)):
        y_O[o] = y_O[o] * scale_O[o] + bias_O[o]
    return y_O


@compiled
def _of_layer(x_I: Floats, matrices: Matrices, layer: int) -> Floats:
    return multiply(
        x_I, matrices.weight_LIO[layer], matrices.scale_LO[layer], matrices.bias_LO[layer]
    )


@compiled
def _normed(x_D: Floats, norm_D: Floats, eps: float) -> Floats:
    """Return a row of root mean square one, times the norm's weights."""
    total = 0.0
    for i in range(len(x_D)):
        total += x_D[i] * x_D[i]
    scale = np.float32(1.0 / np.sqrt(total / len(x_D) + eps))
    return x_D * scale * norm_D


@compiled
def _gated(gate_up_O: Floats) -> Floats:
    """Return silu(gate) * up; the gates come first."""
    num = len(gate_up_O) // 2
    y_I = np.empty(num, np.float32)
    for i in range(num):
        gate = gate_up_O[i]
        y_I[i] = gate / (np.float32(1) + exp(-gate)) * gate_up_O[num + i]
    return y_I


@compiled
def _turn(x_O: Floats, cos_K: Floats, sin_K: Floats) -> None:
    """Turn heads to a position in place, as `khala.nn.rope.rotate` does."""
    half = len(cos_K) // 2
    for start in range(0, len(x_O), 2 * half):
        for i in range(half):
            low, high = x_O[start + i], x_O[start + half + i]
            x_O[start + i] = low * cos_K[i] + high * sin_K[i]
            x_O[start + half + i] = high * cos_K[half + i] + low * sin_K[half + i]


@compiled
def _attend(
    q_HK: Floats,
    keys_KS: npt.NDArray[np.int16],
    key_scale_S: Floats,
    values_SK: npt.NDArray[np.int16],
    value_scale_S: Floats,
    num: int,
    y_HK: Floats,
) -> None:
    """Write what the heads of a group see of the first ``num`` positions.

    Two heads at a time share what is read and widened; the last one of an odd number is read twice.
    """
    num_heads, width = q_HK.shape
    scale = np.float32(1.0 / np.sqrt(width))
    shares_2S = np.empty((2, num), np.float32)
    spare_K = np.empty(width, np.float32)
    for head in range(0, num_heads, 2):
        other = min(head + 1, num_heads - 1)
        a_K, b_K = q_HK[head] * scale, q_HK[other] * scale
        for start in range(0, num, PIECE):
            piece = slice(start, min(start + PIECE, num))
            _add_up(a_K, b_K, keys_KS, start, shares_2S[0, piece], shares_2S[1, piece])
        for row in range(2):
            _soften(shares_2S[row], key_scale_S, value_scale_S)
        other_K = spare_K if other == head else y_HK[other]
        _add_up(shares_2S[0], shares_2S[1], values_SK, 0, y_HK[head], other_K)


@compiled
def _add_up(
    a_I: Floats,
    b_I: Floats,
    rows_IO: npt.NDArray[np.int16],
    start: int,
    a_O: Floats,
    b_O: Floats,
) -> None:
    """Write the sums of rows of a table, from column ``start`` on, times each of two vectors."""
    stop = start + len(a_O)
    a_O[:] = 0
    b_O[:] = 0
    whole = len(a_I) - len(a_I) % 4
    for i in range(0, whole, 4):
        a0, a1, a2, a3 = a_I[i], a_I[i + 1], a_I[i + 2], a_I[i + 3]
        b0, b1, b2, b3 = b_I[i], b_I[i + 1], b_I[i + 2], b_I[i + 3]
        # each a row of its own: a table cut out of a table has no neighbours in memory
        r0_O, r1_O = rows_IO[i, start:stop], rows_IO[i + 1, start:stop]
        r2_O, r3_O = rows_IO[i + 2, start:stop], rows_IO[i + 3, start:stop]
        for o in range(len(a_O)):
            r0, r1 = np.float32(r0_O[o]), np.float32(r1_O[o])
            r2, r3 = np.float32(r2_O[o]), np.float32(r3_O[o])
            a_O[o] += r0 * a0 + r1 * a1 + r2 * a2 + r3 * a3
            b_O[o] += r0 * b0 + r1 * b1 + r2 * b2 + r3 * b3
    for i in range(whole, len(a_I)):
        for o in range(len(a_O)):
            a_O[o] += np.float32(rows_IO[i, start + o]) * a_I[i]
            b_O[o] += np.float32(rows_IO[i, start + o]) * b_I[i]


@compiled
def _soften(score_S: Floats, key_scale_S: Floats, value_scale_S: Floats) -> None:
    """Turn scores into each position's share, times its value's scale, in place."""
    num = len(score_S)
    for s in range(num):
        score_S[s] *= key_scale_S[s]
    most = _largest_signed(score_S)
    for s in range(num):
        score_S[s] = exp(score_S[s] - most)
    t0 = t1 = t2 = t3 = np.float32(0)
    whole = num - num % 4
    for s in range(0, whole, 4):
        t0 += score_S[s]
        t1 += score_S[s + 1]
        t2 += score_S[s + 2]
        t3 += score_S[s + 3]
    for s in range(whole, num):
        t0 += score_S[s]
    share = np.float32(1) / ((t0 + t1) + (t2 + t3))
    for s in range(num):
        score_S[s] *= value_scale_S[s] * share


@compiled
def _largest(x_K: Floats) -> np.float32:
    """Return the largest magnitude, and a little where all are zero."""
    most = np.float32(1e-30)
    for i in range(len(x_K)):
        most = max(most, abs(x_K[i]))
    return most


@compiled
def _largest_signed(x_S: Floats) -> np.float32:
    """Return the largest number; four at a time, as each comparison waits for the one before."""
    m0 = m1 = m2 = m3 = x_S[0]
    whole = len(x_S) - len(x_S) % 4
    for s in range(0, whole, 4):
        m0, m1 = max(m0, x_S[s]), max(m1, x_S[s + 1])
        m2, m3 = max(m2, x_S[s + 2]), max(m3, x_S[s + 3])
    for s in range(whole, len(x_S)):
        m0 = max(m0, x_S[s])
    return max(max(m0, m1), max(m2, m3))
