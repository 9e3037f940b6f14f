"""The published codec in plain float64 numpy: slow, obvious, and nothing of ours.

Shape letters: C channels, N samples or steps, Q levels, T frames, D latent width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray


class ReferenceCodec:
    """Strided convolutions with Snake, and a residual quantiser without projections."""

    def __init__(self, weights: Mapping[str, Array], sizes: Mapping[str, Any]) -> None:
        self.weights = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
        self.encoder, self.decoder = sizes["encoder"], sizes["decoder"]
        self.num_levels = sizes["quantizer"]["num_quantizers"]
        self.hop = int(np.prod(self.encoder["strides"]))

    def weight(self, path: str) -> Array:
        """Return g v / |v|, the norm taken for each index of the first dimension."""
        v = self.weights[f"{path}.weight_v"]
        norms = np.sqrt((v**2).sum(axis=(1, 2), keepdims=True))
        return self.weights[f"{path}.weight_g"] * v / norms

    def snake(self, x_CN: Array, path: str) -> Array:
        """Return x + sin(a x)^2 / a."""
        a = self.weights[f"{path}.alpha"][0]
        return x_CN + np.sin(a * x_CN) ** 2 / (a + 1e-9)

    def conv(
        self, x_CN: Array, path: str, *, pad: int, stride: int = 1, dilation: int = 1
    ) -> Array:
        """Return the convolution, one tap after another."""
        weight = self.weight(path)
        taps = weight.shape[2]
        x_CN = np.pad(x_CN, ((0, 0), (pad, pad)))
        steps = (x_CN.shape[1] - dilation * (taps - 1) - 1) // stride + 1
        out = np.zeros((weight.shape[0], steps)) + self.weights[f"{path}.bias"][:, None]
        for tap in range(taps):
            first = tap * dilation
            out += weight[:, :, tap] @ x_CN[:, first : first + stride * (steps - 1) + 1 : stride]
        return out

    def transposed(self, x_CN: Array, path: str, *, pad: int, stride: int) -> Array:
        """Return the transposed convolution: every input step writes one kernel."""
        weight = self.weight(path)
        taps, steps = weight.shape[2], x_CN.shape[1]
        out = np.zeros((weight.shape[1], (steps - 1) * stride + taps))
        for tap in range(taps):
            out[:, tap : tap + stride * (steps - 1) + 1 : stride] += weight[:, :, tap].T @ x_CN
        return out[:, pad : out.shape[1] - pad] + self.weights[f"{path}.bias"][:, None]

    def unit(self, x_CN: Array, path: str, dilation: int) -> Array:
        """Return a residual unit's output."""
        y_CN = self.snake(x_CN, f"{path}.block.0")
        y_CN = self.conv(y_CN, f"{path}.block.1", pad=3 * dilation, dilation=dilation)
        y_CN = self.snake(y_CN, f"{path}.block.2")
        return x_CN + self.conv(y_CN, f"{path}.block.3", pad=0)

    def encoder_steps(self, wave_CN: Array) -> dict[str, Array]:
        """Return the first convolution's output, each block's, and the latents ``z``."""
        x_CN = self.conv(wave_CN, "encoder.block.0", pad=3)
        seen = {"conv_in": x_CN}
        strides = self.encoder["strides"]
        for number, stride in enumerate(strides, start=1):
            path = f"encoder.block.{number}"
            for unit, dilation in enumerate((1, 3, 9)):
                x_CN = self.unit(x_CN, f"{path}.block.{unit}", dilation)
            x_CN = self.snake(x_CN, f"{path}.block.3")
            x_CN = self.conv(x_CN, f"{path}.block.4", pad=-(-stride // 2), stride=stride)
            seen[f"block{number}"] = x_CN
        x_CN = self.snake(x_CN, f"encoder.block.{len(strides) + 1}")
        seen["z"] = self.conv(x_CN, f"encoder.block.{len(strides) + 2}", pad=1)
        return seen

    def decoder_steps(self, z_DT: Array) -> dict[str, Array]:
        """Return the first convolution's output, each block's, and the waveform."""
        x_CN = self.conv(z_DT, "decoder.model.0", pad=3)
        seen = {"conv_in": x_CN}
        strides = self.decoder["rates"]
        for number, stride in enumerate(strides, start=1):
            path = f"decoder.model.{number}"
            x_CN = self.snake(x_CN, f"{path}.block.0")
            x_CN = self.transposed(x_CN, f"{path}.block.1", pad=-(-stride // 2), stride=stride)
            for unit, dilation in ((2, 1), (3, 3), (4, 9)):
                x_CN = self.unit(x_CN, f"{path}.block.{unit}", dilation)
            seen[f"block{number}"] = x_CN
        x_CN = self.snake(x_CN, f"decoder.model.{len(strides) + 1}")
        seen["wave"] = self.conv(x_CN, f"decoder.model.{len(strides) + 2}", pad=3)
        return seen

    def table(self, level: int) -> Array:
        """Return a level's vectors [codes, D]."""
        return self.weights[f"quantizer.vq_layer_{level}._codebook.embed"]

    def quantise(self, z_DT: Array) -> dict[str, Array]:
        """Return codes, distances from the second-best code, the sum, and what every level left."""
        residual_TD = z_DT.T.copy()
        codes, margins, losses = [], [], []
        for level in range(self.num_levels):
            table = self.table(level)
            distances = ((residual_TD[:, None] - table[None]) ** 2).sum(axis=2)
            best = distances.argmin(axis=1)
            two = np.sort(distances, axis=1)[:, :2]
            residual_TD = residual_TD - table[best]
            codes.append(best)
            margins.append(two[:, 1] - two[:, 0])
            losses.append([np.mean(residual_TD**2)])
        return {
            "codes": np.array(codes),
            "nn_margin": np.array(margins),
            "q_z": z_DT - residual_TD.T,
            "commit_loss": np.array(losses),
        }

    def vectors(self, codes_QT: Array) -> Array:
        """Return the sum of the vectors of some levels [D, T]."""
        return sum(self.table(level)[codes] for level, codes in enumerate(codes_QT)).T  # type: ignore

    def decode(self, codes_QT: Array) -> Array:
        """Return the waveform of the first levels."""
        return self.decoder_steps(self.vectors(codes_QT))["wave"]


def decode_in_chunks(
    decode: Callable[[Array], Array], codes_QT: Array, *, size: int, overlap: int, hop: int
) -> Array:
    """Return what the published worker makes of a long song, cross-faded as it does."""
    whole = np.zeros((0, 0))
    for start in range(0, codes_QT.shape[1], size - overlap):
        piece = decode(codes_QT[:, start : start + size])
        if start == 0:
            whole = piece
            continue
        num = min(overlap * hop, piece.shape[1])
        leaving = np.linspace(1, 0, num)
        mixed = whole[:, -num:] * leaving + piece[:, :num] * (1 - leaving)
        whole = np.concatenate((whole[:, :-num], mixed, piece[:, num:]), axis=1)
    return whole


def codec_arrays(
    codec: ReferenceCodec, wave_CN: Array, chunk_codes: Array, *, size: int, overlap: int
) -> dict[str, Array]:
    """Return every array of ``codec.npz``."""
    encoded = codec.encoder_steps(wave_CN.astype(np.float64))
    coded = codec.quantise(encoded["z"])
    decoded = codec.decoder_steps(coded["q_z"])
    whole = codec.decode(chunk_codes)
    chunked = decode_in_chunks(codec.decode, chunk_codes, size=size, overlap=overlap, hop=codec.hop)
    return {
        "wav": wave_CN,
        "z": encoded["z"],
        "enc_conv_in_first64": encoded["conv_in"][:, :64],
        "enc_block1_first64": encoded["block1"][:, :64],
        **coded,
        "dec_conv_in": decoded["conv_in"],
        "dec_block1_first32": decoded["block1"][:, :32],
        "decoded": decoded["wave"],
        "decoded_first2": codec.decode(coded["codes"][:2])[:, ::4],
        "eff_weight_dec1_up": codec.weight("decoder.model.1.block.1")[:2],
        "chunk_codes": chunk_codes,
        "chunk_wave": chunked[:, ::16],
        "chunk_full_wave": whole[:, ::16],
        "chunk_len": np.array([chunked.shape[1], whole.shape[1]]),
    }
