"""What the codec and its adversary learn from one another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from khala.codec.adversary import Adversary, AdversaryConfig
from khala.codec.balancer import Balancer
from khala.codec.discriminator import DiscriminatorConfig
from khala.codec.losses import Part, Parts, weighted_sum
from khala.errors import CheckpointError, ConfigError

CONFIG = AdversaryConfig(discriminator=DiscriminatorConfig(fft_sizes=(31, 64), width=4), lr=1e-2)


def waves(seed: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 2, 512, generator=torch.Generator().manual_seed(seed))


def adversary_of(config: AdversaryConfig = CONFIG) -> Adversary:
    torch.manual_seed(0)
    return Adversary(config, 2)


def distance(made_BCN: Tensor, wave_BCN: Tensor) -> Parts:
    return {"l1": Part(1.0, (made_BCN - wave_BCN).abs().mean())}


@pytest.mark.parametrize("loss", ["hinge", "least_squares"])
def test_the_discriminator_learns_to_tell_them_apart(loss: str) -> None:
    """An adversary that cannot tell noise from a tone teaches the codec nothing."""
    adversary = adversary_of(replace(CONFIG, loss=loss))
    optimiser = torch.optim.Adam(adversary.discriminator.parameters(), lr=1e-2)
    tone_N = torch.sin(torch.arange(512) * 0.3)
    told = []
    for step in range(30):
        real_BCN, made_BCN = tone_N * torch.ones(2, 2, 1), waves(step)
        _, terms = adversary.judge(made_BCN, real_BCN, distance(made_BCN, real_BCN))
        optimiser.step()
        optimiser.zero_grad()
        told.append(float(terms["discriminator"]))
    assert told[-1] < 0.3 * told[0]
    assert adversary.num_taught == 30


def test_the_codec_s_terms_leave_the_discriminator_alone() -> None:
    """An adversary that also learns to be fooled gives in, and the sound stays blurred."""
    made_BCN, wave_BCN = waves(0).requires_grad_(), waves(1)
    adversary = adversary_of()
    loss, _ = adversary.judge(made_BCN, wave_BCN, distance(made_BCN, wave_BCN))
    taught = [p.grad.clone() for p in adversary.discriminator.parameters() if p.grad is not None]
    loss.backward()  # type: ignore[no-untyped-call]
    after = [p.grad for p in adversary.discriminator.parameters() if p.grad is not None]
    assert len(after) == len(taught) > 0
    assert all(torch.equal(a, b) for a, b in zip(taught, after, strict=True))
    assert all(parameter.requires_grad for parameter in adversary.discriminator.parameters())


def test_the_terms_are_the_plain_formulas() -> None:
    """A sign or a mean gone wrong trains the codec to be told from a recording more easily."""
    made_BCN, wave_BCN = waves(0).requires_grad_(), waves(1)
    adversary = adversary_of()
    parts = distance(made_BCN, wave_BCN)
    loss, terms = adversary.judge(made_BCN, wave_BCN, parts)
    adversarial, features, discriminator = [], [], []
    for real, fake in zip(
        adversary.discriminator(wave_BCN), adversary.discriminator(made_BCN), strict=True
    ):
        adversarial.append(torch.relu(1 - fake.scores_B1LF).mean())
        discriminator.append(
            torch.relu(1 - real.scores_B1LF).mean() + torch.relu(1 + fake.scores_B1LF).mean()
        )
        for a, b in zip(real.features_BELF, fake.features_BELF, strict=True):
            features.append((a - b).abs().mean() / a.abs().mean())
    wanted = {
        "adversarial": torch.stack(adversarial).mean(),
        "features": torch.stack(features).mean(),
        "discriminator": torch.stack(discriminator).mean(),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value.detach())
    total = parts["l1"].value + 4 * wanted["adversarial"] + 4 * wanted["features"]
    torch.testing.assert_close(loss, total)


def test_phases_nobody_can_know_are_not_compared() -> None:
    """Fine levels that super-resolution drew have other phases: matching them blurs the decoder."""
    made_BCN, wave_BCN = waves(0), waves(1)
    adversary = adversary_of()
    parts = distance(made_BCN, wave_BCN)
    _, none = adversary.judge(made_BCN, wave_BCN, parts, torch.zeros(2, dtype=torch.bool))
    _, first = adversary.judge(made_BCN, wave_BCN, parts, torch.tensor([True, False]))
    other_BCN = torch.cat([made_BCN[:1], waves(2, 1)])
    _, same = adversary.judge(other_BCN, wave_BCN, parts, torch.tensor([True, False]))
    assert float(none["features"]) == 0.0
    assert float(first["features"]) > 0.0
    torch.testing.assert_close(first["features"], same["features"])
    assert float(first["adversarial"]) != float(same["adversarial"])


def test_before_its_time_the_adversary_does_nothing() -> None:
    """Judged before there are codes, the encoder learns to please rather than to tell."""
    made_BCN, wave_BCN = waves(0).requires_grad_(), waves(1)
    adversary = adversary_of()
    parts = distance(made_BCN, wave_BCN)
    loss, terms = adversary.judge(made_BCN, wave_BCN, parts, active=False)
    assert torch.equal(loss, weighted_sum(parts))
    assert not terms
    assert adversary.num_taught == 0
    assert all(parameter.grad is None for parameter in adversary.discriminator.parameters())


def test_balanced_terms_have_their_shares_whatever_their_units() -> None:
    """Else a louder corpus, or a sharper adversary, would silence every other term."""
    wave_BCN = waves(0).requires_grad_()
    left_BCN, right_BCN = torch.zeros(2, 2, 512), torch.zeros(2, 2, 512)
    left_BCN[:, 0], right_BCN[:, 1] = 1.0, 1.0
    balancer = Balancer(5.0, 0.9)
    for scale in (1.0, 1e4, 1e-4):
        balancer = Balancer(5.0, 0.9)
        parts = {
            "left": Part(3.0, (wave_BCN * left_BCN).mean()),
            "right": Part(1.0, scale * (wave_BCN * right_BCN).mean()),
            "unused": Part(0.0, (wave_BCN * float("nan")).mean()),
        }
        loss = balancer(parts, wave_BCN)
        (gradient_BCN,) = torch.autograd.grad(loss, [wave_BCN])
        # Two waveforms, so half of 5 * 3/4 and of 5 * 1/4 for each.
        torch.testing.assert_close(gradient_BCN[:, 0].norm(dim=1), torch.full((2,), 5 * 0.375))
        torch.testing.assert_close(gradient_BCN[:, 1].norm(dim=1), torch.full((2,), 5 * 0.125))
    assert torch.equal(loss, weighted_sum({name: parts[name] for name in ("left", "right")}))


def test_balance_goes_by_the_running_norm() -> None:
    """Scaled by each batch's own norm, a silent crop would shout as loud as a song."""
    balancer, wave_BCN = Balancer(1.0, 0.5), waves(0, 1).requires_grad_()
    lengths = []
    for scale in (1.0, 1.0, 4.0):
        loss = balancer({"a": Part(2.0, scale * wave_BCN.mean())}, wave_BCN)
        (gradient_BCN,) = torch.autograd.grad(loss, [wave_BCN])
        lengths.append(float(gradient_BCN.norm()))
        balancer.settle()
    assert lengths == pytest.approx([1.0, 1.0, 4.0])
    loss = balancer({"a": Part(2.0, wave_BCN.mean())}, wave_BCN)
    (gradient_BCN,) = torch.autograd.grad(loss, [wave_BCN])
    assert float(gradient_BCN.norm()) == pytest.approx(1.75 / (4 + 0.5 + 0.25))
    balancer.forget()
    before = balancer.state_tensors()
    balancer.settle()
    assert balancer.state_tensors() == before
    again = Balancer(1.0, 0.5)
    again.load_state_tensors(balancer.state_tensors())
    parts = {"a": Part(2.0, 3.0 * wave_BCN.mean())}
    one, two = (
        torch.autograd.grad(each(parts, wave_BCN), [wave_BCN])[0] for each in (balancer, again)
    )
    assert torch.equal(one, two)
    with pytest.raises(CheckpointError, match="two numbers"):
        again.load_state_tensors({"a": torch.zeros(3)})


def test_nonsense_is_refused() -> None:
    """A typing mistake must cost a line of text, not a night."""
    for name, value in (
        ("loss", "hing"),
        ("start_step", -1),
        ("features", -0.1),
        ("balance_norm", 0.0),
        ("balance_decay", 1.0),
        ("lr", 0.0),
        ("beta1", 1.0),
        ("clip_norm", -1.0),
    ):
        with pytest.raises(ConfigError, match=name):
            replace(CONFIG, **{name: value})
