"""Training one codec in two processes: two real ones, which talk through gloo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing

from khala.codec import CodecConfig, ConvConfig, GuideConfig, QuantizerConfig, SpectralConfig, ranks
from khala.codec.adversary import Adversary, AdversaryConfig
from khala.codec.balancer import Balancer
from khala.codec.discriminator import DiscriminatorConfig
from khala.codec.losses import Part
from khala.codec.objective import CodecObjective, CodecObjectiveConfig
from khala.train import TrainConfig
from khala.train.adversary import AdversaryUpdates

NUM_STEPS = 6
CONFIGS = {
    "conv": CodecConfig(
        hop=64,
        conv=ConvConfig(
            encoder_filters=2,
            encoder_strides=(4, 4, 4),
            decoder_filters=2,
            decoder_strides=(4, 4, 4),
        ),
        quantizer=QuantizerConfig(num_levels=3, codebook_size=16, latent_width=6),
    ),
    "guided": CodecConfig(
        hop=256,
        spectral=SpectralConfig(n_fft=256, fine_width=12, coarse_width=16),
        guide=GuideConfig(num_coefficients=5, num_mels=20, width=8, blocks=1),
        quantizer=QuantizerConfig(num_levels=3, codebook_size=16, latent_width=12, code_width=4),
    ),
}


def wave_of(rank: int, step: int, hop: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return 0.1 * torch.randn(2, 2, 32 * hop, generator=generator)


@torch.no_grad()
def codebooks_of(config: CodecConfig, members: list[int]) -> tuple[dict[str, Tensor], int]:
    """Codebooks after some steps on the crops of these ranks, and how many codes were revived."""
    torch.manual_seed(0)
    objective = CodecObjective(config, CodecObjectiveConfig(decay=0.5, revive_every=2))
    latents_BTD, guide_BTG = objective.codec.latents(wave_of(members[0], 0, config.hop))
    vectors = 2 * latents_BTD.shape[0] * latents_BTD.shape[1]
    objective.start_quantizer(
        latents_BTD.flatten(0, 1),
        None if guide_BTG is None else guide_BTG.flatten(0, 1),
        batch=vectors,
    )
    objective.codec.quantizer.codebooks[1:, :5] += 100.0  # nothing will choose these
    objective.averages.restart(objective.codec.quantizer, vectors)
    revived, revive = [], objective.averages.revive
    objective.averages.revive = lambda quantizer: revived.append(revive(quantizer)) or 0  # type: ignore[func-returns-value,method-assign,assignment]
    for step in range(1, NUM_STEPS + 1):
        wave_BCN = torch.cat([wave_of(rank, step, config.hop) for rank in members])
        objective(wave_BCN, wave_BCN.mean(1), torch.Generator().manual_seed(0))
        objective.after_update(step)
    state = {**objective.codec.quantizer.state_dict(), **objective.averages.state_dict()}
    return state, sum(revived)


def discriminator_of(members: list[int]) -> dict[str, Tensor]:
    """A discriminator and the balance of its terms, after some steps on these ranks' crops."""
    torch.manual_seed(0)
    config = AdversaryConfig(
        discriminator=DiscriminatorConfig(fft_sizes=(62, 128), width=4), balance=True, lr=1e-2
    )
    train = TrainConfig(num_steps=NUM_STEPS, lr=1.0, warmup_steps=0)
    updates = AdversaryUpdates(Adversary(config, 2), train)
    for step in range(NUM_STEPS):
        wave_BCN = torch.cat([wave_of(rank, step, 32) for rank in members])
        made_BCN = (0.5 * wave_BCN.flip(-1)).requires_grad_()
        parts = {"l1": Part(1.0, (made_BCN - wave_BCN).square().mean())}
        updates.adversary.judge(made_BCN, wave_BCN, parts)
        updates.clip()
        updates.step(step)
    return {name: value for name, value in updates.state_tensors().items() if ":step" not in name}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    place = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    for name, config in CONFIGS.items():
        state, revived = codebooks_of(config, [rank])
        save_file(state | {"revived": torch.tensor(revived)}, f"{folder}/{name}-{rank}")
    save_file(discriminator_of([rank]), f"{folder}/discriminator-{rank}")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give what two processes ended with, each after crops of its own."""
    path = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(work, args=(str(path),), nprocs=2)  # type: ignore[no-untyped-call]
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_codebooks_are_the_same_bits_in_every_process(folder: Path, name: str) -> None:
    """Two processes with two codebooks train two codecs, and export one of them."""
    one, two = load_file(folder / f"{name}-0"), load_file(folder / f"{name}-1")
    assert one.keys() == two.keys()
    for key in one:
        assert torch.equal(one[key], two[key]), key
    assert int(one["revived"]) >= 10


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_equal_one_that_saw_both_batches(folder: Path, name: str) -> None:
    """More machines would otherwise make another codec, or a worse one."""
    state, revived = codebooks_of(CONFIGS[name], [0, 1])
    apart = load_file(folder / f"{name}-0")
    assert int(apart.pop("revived")) == revived
    for key, value in state.items():
        torch.testing.assert_close(apart[key], value, msg=lambda text, key=key: f"{key}: {text}")


def test_the_discriminator_learns_from_all_processes(folder: Path) -> None:
    """Discriminators that drift apart pull the codec two ways at once."""
    one, two = load_file(folder / "discriminator-0"), load_file(folder / "discriminator-1")
    alone = discriminator_of([0, 1])
    for key, value in alone.items():
        assert torch.equal(one[key], two[key]), key
        if key.startswith("weights."):
            torch.testing.assert_close(one[key], value, rtol=1e-3, atol=1e-5)
    # Of means over half as many waveforms: the gradient of each is twice as long.
    torch.testing.assert_close(one["balance.l1"][0], 2 * alone["balance.l1"][0])


def test_one_process_is_left_alone() -> None:
    """Who trains on one machine must not need, or wait for, any other."""
    tensor = torch.arange(3.0)
    ranks.average([tensor])
    ranks.copy_first([tensor])
    assert ranks.is_first()
    assert torch.equal(ranks.add_up(tensor), torch.arange(3.0))


def test_the_balance_does_not_depend_on_the_batch() -> None:
    """Twice the crops would double what the reconstruction pulls, beside the commitment."""
    wave_BCN = wave_of(0, 0, 32).requires_grad_()
    lengths = []
    for batch in (wave_BCN, torch.cat([wave_BCN, wave_BCN])):
        loss = Balancer(5.0, 0.9)({"a": Part(1.0, batch.square().mean())}, batch)
        (gradient,) = torch.autograd.grad(loss, [wave_BCN])
        lengths.append(gradient.norm())
    torch.testing.assert_close(lengths[0], lengths[1])
