"""Low-rank changes: what is learned beside a frozen model, and what is added to its weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from khala.errors import ConfigError
from khala.nn import Trunk, TrunkConfig, init_weights
from khala.nn.linear import FEW_ROWS
from khala.nn.lora import (
    LINEARS,
    LoraConfig,
    LoraLinear,
    add_lora,
    lora_shapes,
    lora_tensors,
    merge_lora,
    weight_rows,
)

LORA = LoraConfig(rank=3, alpha=6.0)


def trunk(*, double_fc1_bias: bool = False) -> Trunk:
    config = TrunkConfig(
        width=16, num_layers=2, num_heads=4, num_kv_heads=2, head_width=8, ffn_width=24,
        double_fc1_bias=double_fc1_bias,
    )  # fmt: skip
    model = Trunk(config, max_positions=64)
    init_weights(model, config, seed=1)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(generator=generator)
    return model


def changed(**options: bool) -> Trunk:
    """A model whose change is not zero any more."""
    model = trunk(**options)
    add_lora(model, LORA, seed=2)
    torch.manual_seed(3)
    for name, tensor in lora_tensors(model).items():
        if name.endswith("lora_B"):
            nn.init.normal_(tensor, std=0.5)
    return model


def test_a_change_begins_as_no_change() -> None:
    """The first step of a tuning must start from the model that was asked for, not beside it."""
    before, after = trunk(), trunk()
    add_lora(after, LORA, seed=2)
    hidden_BSD = torch.randn(2, 9, 16)
    one, two = (model.transform(hidden_BSD, causal=True) for model in (before, after))
    torch.testing.assert_close(one, two)
    names = set(before.state_dict())
    assert names < set(after.state_dict()), "the model's own tensors keep their names"


def test_only_the_change_learns() -> None:
    """A tuning that moved the model itself would leave an adapter that fits no model."""
    model = changed()
    model.transform(torch.randn(1, 7, 16), causal=True).square().sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        is_change = "lora_" in name
        assert parameter.requires_grad == is_change, name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == is_change, name


@pytest.mark.parametrize("double_fc1_bias", [False, True])
@pytest.mark.parametrize("num_positions", [1, FEW_ROWS + 5])
def test_merged_equals_learned(num_positions: int, double_fc1_bias: bool) -> None:
    """What is heard with --lora must be what was validated while it was trained."""
    learned, merged = changed(double_fc1_bias=double_fc1_bias), trunk(
        double_fc1_bias=double_fc1_bias
    )  # fmt: skip
    merge_lora(merged, lora_tensors(learned), LORA, strength=1.0)
    hidden_BSD = torch.randn(1, num_positions, 16)
    one, two = (model.transform(hidden_BSD, causal=True) for model in (learned, merged))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    plain = trunk(double_fc1_bias=double_fc1_bias).transform(hidden_BSD, causal=True)
    assert float((one - plain).detach().abs().max()) > 0.1


def test_merging_is_the_formula() -> None:
    """W + strength * alpha / rank * B A, written out, for every linear and nothing else."""
    learned, merged, plain = changed(), trunk(), trunk()
    merge_lora(merged, lora_tensors(learned), LORA, strength=0.5)
    tensors = lora_tensors(learned)
    for name, tensor in plain.state_dict().items():
        change = torch.zeros_like(tensor)
        linear = name.removesuffix(".weight")
        if f"{linear}.lora_A" in tensors:
            up_OR, down_RI = tensors[f"{linear}.lora_B"], tensors[f"{linear}.lora_A"]
            for r in range(3):
                change += 0.5 * 2.0 * up_OR[:, r : r + 1] * down_RI[r : r + 1]
        torch.testing.assert_close(merged.state_dict()[name], tensor + change)


def test_strength_0_is_the_model_bit_for_bit() -> None:
    """Turning a style all the way down must give back the songs that were there before."""
    merged = trunk()
    merge_lora(merged, lora_tensors(changed()), LORA, strength=0.0)
    for name, tensor in trunk().state_dict().items():
        assert torch.equal(merged.state_dict()[name], tensor), name


def test_targets_are_found_by_the_ends_of_names() -> None:
    """An adapter for the attention alone must not touch the rest."""
    lora = LoraConfig(rank=2, targets=("q_proj", "down_proj"))
    model = trunk()
    add_lora(model, lora, seed=0)
    assert lora_tensors(model).keys() == lora_shapes(trunk(), lora).keys()
    assert {name.split(".")[-2] for name in lora_tensors(model)} == {"q_proj", "down_proj"}
    shapes = {name: tuple(tensor.shape) for name, tensor in lora_tensors(model).items()}
    assert shapes == lora_shapes(trunk(), lora)
    assert len(lora_shapes(trunk(), LORA)) == 2 * 2 * len(LINEARS)


def test_rows_are_those_that_work() -> None:
    """The watched head of the alignment would otherwise look through another matrix."""
    linear = changed().layers[0].attn.q_proj  # type: ignore[union-attr]
    assert isinstance(linear, LoraLinear)
    whole = linear.weight + linear.scale * linear.lora_B @ linear.lora_A
    torch.testing.assert_close(weight_rows(linear, slice(8, 16)), whole[8:16])
    plain = nn.Linear(4, 6)
    assert torch.equal(weight_rows(plain, slice(2, 5)), plain.weight[2:5])


def test_dropout_drops_only_while_training() -> None:
    """A song must not depend on chance that nobody asked for."""
    model = trunk()
    add_lora(model, LoraConfig(rank=3, dropout=0.5), seed=2)
    for tensor in lora_tensors(model).values():
        nn.init.normal_(tensor)
    hidden_BSD = torch.randn(1, 40, 16)

    def twice() -> list[torch.Tensor]:
        return [model.transform(hidden_BSD, causal=True) for _ in range(2)]

    assert not torch.equal(*twice())
    model.eval()
    assert torch.equal(*twice())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rank": 0}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
        ({"targets": ()}, "targets"),
        ({"targets": ("lm_head",)}, "q_proj"),
        ({"targets": ("q_proj", "q_proj")}, "each once"),
    ],
)
def test_impossible_changes_are_refused(wrong: dict[str, object], words: str) -> None:
    """A setting that means nothing must not cost the hours of a run."""
    with pytest.raises(ConfigError, match=words):
        LoraConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at most 16"):
        add_lora(trunk(), LoraConfig(rank=17), seed=0)
