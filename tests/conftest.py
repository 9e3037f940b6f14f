"""A whole model folder with tiny random weights, for every test that needs one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# a busy machine is no defect
settings.register_profile("khala", deadline=None)
settings.load_profile("khala")

# as khala.cli does: test processes side by side must not spin for each other's cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def write_tiny_model(folder: Path, *, seed: int = 0, num_levels: int = 8) -> Path:
    """Write codec/, backbone/, superres/ and tokenizer.json: some hundred kB of noise."""
    import torch

    from khala.backbone import Backbone, BackboneConfig
    from khala.checkpoint import write_manifest
    from khala.codec import Codec, CodecConfig, QuantizerConfig, SpectralConfig
    from khala.nn import TrunkConfig
    from khala.superres import SuperResConfig, SuperResolution
    from khala.tokens import TextTokenizer, TokenLayout, nano_layout

    layout = nano_layout()
    layout = TokenLayout(
        text_vocab_size=layout.text_vocab_size, control=layout.control, num_levels=num_levels
    )
    trunk = TrunkConfig(
        width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_width=8, ffn_width=16
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = Codec(
            CodecConfig(
                quantizer=QuantizerConfig(num_levels=num_levels, latent_width=8),
                spectral=SpectralConfig(
                    n_fft=1_024,
                    fine_width=8,
                    coarse_width=8,
                    encoder_coarse_blocks=1,
                    decoder_coarse_blocks=1,
                    decoder_fine_blocks=1,
                ),
            )
        )
        for parameter in codec.decoder.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    codec.save(folder / "codec")
    backbone = BackboneConfig(trunk=trunk, layout=layout, max_positions=2_048)
    Backbone(backbone, seed=seed).save(folder / "backbone")
    superres = SuperResConfig(trunk=trunk, layout=layout, max_positions=1_024)
    SuperResolution(superres, seed=seed).save(folder / "superres")
    TextTokenizer.bytes().save(folder / "tokenizer.json")
    write_manifest(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder nobody may write to."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def make_tiny_model() -> Callable[..., Path]:
    """Builds a model folder of one's own, to damage it."""
    return write_tiny_model
