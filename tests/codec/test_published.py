"""Joints, lengths and commitment of the published codec; its numbers are held by tests/goldens."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_weights import codec_weights

from khala.codec import Codec, CodecConfig, ConvConfig, QuantizerConfig
from khala.codec.crossfade import decode_crossfaded
from khala.codec.fit import commitment, quantise
from khala.errors import ConfigError, TokenError

GOLDEN = Path(__file__).parents[1] / "goldens" / "A"
INFO = json.loads((GOLDEN / "info.json").read_text())
SIZES = INFO["config"]["codec"]


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
    weights = codec_weights(SIZES, INFO["config"]["seed"])
    tables = [
        weights[f"quantizer.vq_layer_{level}._codebook.embed"]
        for level in range(quantizer["num_quantizers"])
    ]
    state = {name: one for name, one in weights.items() if not name.startswith("quantizer.")}
    state["quantizer.codebooks"] = np.stack(tables)
    codec.load_state_dict({name: torch.from_numpy(one) for name, one in state.items()})
    return codec


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "codec.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def close(made: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(made.double(), wanted.double(), atol=3e-4, rtol=0)


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


def test_a_folded_decoder_sounds_the_same(codec: Codec, golden: dict[str, torch.Tensor]) -> None:
    """Scaling weights once instead of at every piece is no other codec; it can still be saved."""
    folded = copy.deepcopy(codec)
    folded.fold_decoder()
    codes = golden["chunk_codes"][None, :, :40].long()
    torch.testing.assert_close(folded.decode(codes), codec.decode(codes), atol=1e-5, rtol=1e-5)
    assert folded.codes_digest() == codec.codes_digest()
    again = copy.deepcopy(codec)
    again.load_state_dict(folded.state_dict())
    torch.testing.assert_close(again.decode(codes), codec.decode(codes), atol=1e-5, rtol=1e-5)
    first = folded.decoder.model[0]
    with torch.no_grad():
        first.weight_g *= 2.0  # no longer read
    torch.testing.assert_close(folded.decode(codes), codec.decode(codes), atol=1e-5, rtol=1e-5)


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
