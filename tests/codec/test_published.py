"""The published codec, against recorded outputs of its authors' code (tests/goldens/A)."""

import json
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from khala.codec import Codec, CodecConfig, ConvConfig, QuantizerConfig
from khala.codec.crossfade import decode_crossfaded
from khala.codec.fit import commitment, quantise
from khala.errors import ConfigError, TokenError

GOLDEN = Path(__file__).parents[1] / "goldens" / "A"
INFO = json.loads((GOLDEN / "info.json").read_text())
SIZES = INFO["config"]["codec"]


def by_formula(
    name: str, shape: tuple[int, ...], scale: float, offset: float
) -> npt.NDArray[np.float32]:
    """Weights as an integer hash of their name and index (the fixtures' own formula)."""
    key = (zlib.crc32(f"codec/{name}".encode()) + INFO["config"]["seed"] * 0x85EBCA6B) % 2**32
    x = (np.arange(int(np.prod(shape)), dtype=np.uint64) * 0x9E3779B1 + key) % 2**32
    x ^= x >> np.uint64(16)
    x = x * 0x7FEB352D % 2**32
    x ^= x >> np.uint64(15)
    x = x * 0x846CA68B % 2**32
    x ^= x >> np.uint64(16)
    return (offset + scale * (x / 2.0**31 - 1)).astype(np.float32).reshape(shape)


def recipe(name: str) -> tuple[float, float]:
    """Scale and offset of a tensor, by the end of its name."""
    if name.endswith("alpha"):
        return 0.5, 1.5
    if name.endswith("weight_v"):
        return 0.5, 0.0
    if name.endswith("bias"):
        return 0.1, 0.0
    return (0.15, 0.8) if name.startswith("encoder.") else (0.2, 0.8)


@pytest.fixture(scope="module")
def codec() -> Codec:
    quantizer = SIZES["quantizer"]
    codec = Codec(
        CodecConfig(
            conv=ConvConfig(
                encoder_filters=SIZES["encoder"]["n_filters"],
                encoder_strides=tuple(SIZES["encoder"]["strides"]),
                decoder_filters=SIZES["decoder"]["n_filters"],
                decoder_strides=tuple(SIZES["decoder"]["rates"]),
            ),
            quantizer=QuantizerConfig(
                num_levels=quantizer["num_quantizers"],
                codebook_size=quantizer["codebook_size"],
                latent_width=quantizer["dim"],
            ),
        )
    ).eval()
    with torch.no_grad():
        for name, tensor in codec.named_parameters():
            tensor.copy_(torch.from_numpy(by_formula(name, tuple(tensor.shape), *recipe(name))))
        for level, table in enumerate(codec.quantizer.codebooks):
            name = f"quantizer.vq_layer_{level}._codebook.embed"
            values = by_formula(name, tuple(table.shape), 3.0 * 0.6**level, 0.0)
            table.copy_(torch.from_numpy(values))
    return codec


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "codec.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def close(made: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(made.double(), wanted.double(), atol=3e-4, rtol=0)


def test_encoder_and_codes(codec: Codec, golden: dict[str, torch.Tensor]) -> None:
    """A codec that reads published songs wrong makes every published code noise."""
    wave = golden["wav"][None].float()
    with torch.inference_mode():
        encoder = codec.encoder
        close(encoder.block[0](wave)[0, :, :64], golden["enc_conv_in_first64"])
        close(encoder.block[1](encoder.block[0](wave))[0, :, :64], golden["enc_block1_first64"])
        latents, _ = codec.latents(wave)
        close(latents[0].T, golden["z"])
        assert torch.equal(codec.encode(wave, pad=False)[0], golden["codes"].long())
        close(codec.quantizer.decode(golden["codes"][None].long())[0].T, golden["q_z"])


def test_decoder(codec: Codec, golden: dict[str, torch.Tensor]) -> None:
    """A codec that speaks published codes wrong plays noise; a prefix of levels must play too."""
    codes = golden["codes"][None].long()
    with torch.inference_mode():
        latents = codec.quantizer.decode(codes)
        entered = codec.decoder.model[0](latents.transpose(1, 2))
        close(entered[0], golden["dec_conv_in"])
        close(codec.decoder.model[1](entered)[0, :, :32], golden["dec_block1_first32"])
        close(codec.decode(codes)[0], golden["decoded"])
        close(codec.decode(codes[:, :2])[0, :, ::4], golden["decoded_first2"])
        upsampler = codec.decoder.model[1].block[1]
        close(upsampler.weight()[:2], golden["eff_weight_dec1_up"])


def test_chunked_decode_equals_the_whole(codec: Codec, golden: dict[str, torch.Tensor]) -> None:
    """Chunks with too little context click at their borders."""
    codes = golden["chunk_codes"][None].long()
    whole = codec.decode(codes, chunk_frames=None)[0]
    close(whole[:, ::16], golden["chunk_full_wave"])
    for chunk in (5, 16):
        torch.testing.assert_close(codec.decode(codes, chunk_frames=chunk)[0], whole)


def test_published_cross_fades(codec: Codec, golden: dict[str, torch.Tensor]) -> None:
    """Who compares with the published program must hear its seams, not seams of our own."""
    codes = golden["chunk_codes"][None].long()
    sizes = INFO["config"]
    size, overlap = sizes["chunk_size"], sizes["chunk_overlap"]
    heard: list[int] = []
    wave = decode_crossfaded(
        codec, codes, chunk_frames=size, overlap_frames=overlap, on_chunk=heard.append
    )[0]
    chunked, full = (int(one) for one in golden["chunk_len"])
    assert (wave.shape[1], codes.shape[2] * codec.config.hop) == (chunked, full)
    close(wave[:, ::16], golden["chunk_wave"])
    whole = codec.decode(codes)[0]
    assert (wave - whole)[:, ::16].abs().max() > 0.01, "the defect is there"
    num_frames = codes.shape[2]
    starts = range(0, num_frames, size - overlap)
    assert heard == [min(start + size, num_frames) for start in starts]


def test_cross_fades_of_every_length(codec: Codec, golden: dict[str, torch.Tensor]) -> None:
    """Songs that end inside an overlap are the ones whose end is spoiled: all of them count."""
    codes = golden["chunk_codes"][None].long()
    for num_frames in range(1, 30):
        part = codes[..., :num_frames]
        wave = decode_crossfaded(codec, part, chunk_frames=8, overlap_frames=2)
        assert wave.shape == (1, 2, num_frames * codec.config.hop)
        wanted = plain_cross_fade(codec, part[0], 8, 2)
        torch.testing.assert_close(wave[0].double(), wanted, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="0 to 7 are allowed"):
        decode_crossfaded(codec, codes, chunk_frames=8, overlap_frames=8)
    with pytest.raises(TokenError, match="no frame"):
        decode_crossfaded(codec, codes[..., :0])


def plain_cross_fade(codec: Codec, codes_QT: torch.Tensor, size: int, overlap: int) -> torch.Tensor:
    """Sample by sample: the sound of each piece is faded into what is there, as far as both go."""
    hop, num_frames = codec.config.hop, codes_QT.shape[1]
    out = torch.zeros(2, num_frames * hop, dtype=torch.float64)
    known = 0
    for start in range(0, num_frames, size - overlap):
        piece = codec.decode(codes_QT[None, :, start : start + size], chunk_frames=None)[0].double()
        at = start * hop
        num = min(known - at, overlap * hop, piece.shape[1]) if known else 0
        old = torch.tensor([1.0 if num == 1 else 1.0 - i / (num - 1) for i in range(num)])
        faded = out[:, at : at + num] * old + piece[:, :num] * (1.0 - old)
        out[:, at : at + num] = faded
        out[:, at + num : at + piece.shape[1]] = piece[:, num:]
        known = at + piece.shape[1]
    return out


@pytest.mark.parametrize(("samples", "lengths"), INFO["codec"]["lengths"].items())
def test_length_arithmetic(codec: Codec, samples: str, lengths: list[int]) -> None:
    """The published arithmetic drops the tail; the default keeps it."""
    wave = torch.zeros(1, 2, int(samples))
    frames, decoded = lengths
    assert codec.encode(wave, pad=False).shape[-1] == frames
    assert codec.decode(codec.encode(wave, pad=False)).shape[-1] == decoded
    assert codec.encode(wave).shape[-1] == -(-int(samples) // codec.config.hop)


def test_commitment_sees_every_level(codec: Codec, golden: dict[str, torch.Tensor]) -> None:
    """A commitment on the first level alone lets the others drift (a bug others shipped)."""
    latents = golden["z"].T.float().requires_grad_()
    seen = quantise(codec.quantizer, latents.detach(), None)
    energy = latents.detach().square().mean()
    per_level = [(latents - total).square().mean() / energy for total in seen.sums_QND]
    torch.testing.assert_close(commitment(latents, seen), torch.stack(per_level).mean())
    assert torch.equal(seen.codes_QN, golden["codes"].long())
    errors = torch.stack(per_level) * energy
    torch.testing.assert_close(errors, golden["commit_loss"][:, 0].float(), atol=3e-4, rtol=0)
