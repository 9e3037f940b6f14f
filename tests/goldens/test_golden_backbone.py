"""The backbone against numbers from the published architecture (golden set A)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_weights import fill, uniform
from torch import Tensor
from torch.nn import functional as F

from khala.backbone import Backbone, BackboneConfig, generate_coarse
from khala.nn import TrunkConfig
from khala.nn.sampling import top_candidates
from khala.tokens import published_layout

HERE = Path(__file__).parent / "A"
NUM_ROWS = 130_432


def trunk_config(sizes: dict[str, Any], **changes: Any) -> TrunkConfig:
    """Return the trunk of the set's sizes, with the published weights' double bias."""
    config = TrunkConfig(
        width=sizes["hidden"],
        num_layers=sizes["layers"],
        num_heads=sizes["heads"],
        num_kv_heads=sizes["kv"],
        head_width=sizes["hd"],
        ffn_width=sizes["ffn"],
        double_fc1_bias=True,
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def info() -> dict[str, Any]:
    return dict(json.loads((HERE / "info.json").read_text()))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(HERE / "backbone.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def backbone(info: dict[str, Any]) -> Backbone:
    config = BackboneConfig(
        trunk=trunk_config(info["config"]),
        layout=published_layout(),
        max_positions=256,
        num_rows=NUM_ROWS,
    )
    model = Backbone(config)
    fill(model, "backbone/", info["config"]["seed"])
    return model.eval()


@pytest.fixture(scope="module")
def prompt_1S(golden: dict[str, np.ndarray]) -> Tensor:
    return torch.from_numpy(golden["prompt_ids"].astype(np.int64))[None]


def close(ours: Tensor, theirs: np.ndarray, tolerance: float) -> None:
    """Assert agreement within an absolute tolerance."""
    np.testing.assert_allclose(ours.detach().double().numpy(), theirs, rtol=0, atol=tolerance)


def test_formula_is_the_published_one(info: dict[str, Any]) -> None:
    """Guard of the guards: with other weights, every parity test below would prove nothing."""
    u = uniform("backbone/embed.weight", 1_000_001, 16)
    assert u[:2].tolist() == [-0.3340198998339474, -0.8635896844789386]
    assert u[1_000_000] == -0.796909976284951
    embed = info["formula_check"]["backbone/embed.weight"]
    assert np.float32(0.5 * u[:4]).tolist() == embed


@torch.inference_mode()
def test_every_step_of_the_trunk(
    backbone: Backbone, golden: dict[str, np.ndarray], prompt_1S: Tensor
) -> None:
    """A slip in norm, rotation, grouping or bias would turn released weights into noise."""
    seen: dict[str, Tensor] = {}
    hooks = []
    for i, layer in enumerate(backbone.layers):
        for name, module in (
            (f"attn{i}", layer.attn),
            (f"mlp{i}", layer.mlp),
            (f"layer{i}", layer),
        ):
            hooks.append(
                module.register_forward_hook(
                    lambda _m, _i, out, name=name: seen.update({name: out})
                )
            )
    try:
        hidden_1SD = backbone.hidden(prompt_1S)
    finally:
        for hook in hooks:
            hook.remove()
    rows = torch.from_numpy(golden["positions"].astype(np.int64))
    close(backbone.embed(prompt_1S)[0, rows], golden["act_embed"], 1e-4)
    for name, activation in seen.items():
        close(activation[0, rows], golden[f"act_{name}"], 1e-4)
    close(hidden_1SD[0, rows], golden["hidden_final"], 1e-4)


@torch.inference_mode()
def test_logits_and_probabilities(
    backbone: Backbone, golden: dict[str, np.ndarray], prompt_1S: Tensor, info: dict[str, Any]
) -> None:
    """The first sampled token already depends on these: wrong here, wrong songs everywhere."""
    logits_SV = backbone(prompt_1S)[0]
    assert logits_SV.dtype == torch.float32
    assert logits_SV.shape[1] == 130_304
    rows = torch.from_numpy(golden["positions"].astype(np.int64))
    windows = torch.cat([logits_SV[rows, lo:hi] for lo, hi in info["windows"]], dim=1)
    close(windows, golden["logit_windows"], 2e-4)
    hidden = backbone.hidden(prompt_1S)[0, rows]
    close(backbone.window_logits(hidden, 130_304, 130_312), golden["padded_logits_tail"], 2e-4)
    kept = logits_SV[rows]
    assert kept.argmax(dim=1).tolist() == golden["argmax"].tolist()
    close(kept.double().logsumexp(dim=1), golden["logsumexp"], 2e-4)
    logp = logits_SV[:-1].double().log_softmax(dim=1).gather(1, prompt_1S[0, 1:, None])[:, 0]
    close(logp, golden["teacher_logp"], 5e-4)


@torch.inference_mode()
def test_top_50_of_the_last_position(
    backbone: Backbone, golden: dict[str, np.ndarray], prompt_1S: Tensor
) -> None:
    """Keeping other candidates, or cutting before the temperature, changes how songs sound."""
    logits_1V = backbone(prompt_1S)[0, -1:]
    kept = top_candidates(logits_1V, 50)[0]
    order = np.argsort(golden["top50_ids"])
    assert kept.tolist() == golden["top50_ids"][order].tolist()
    for name, temperature in (("top50_probs", 1.0), ("top50_probs_T0p8", 0.8)):
        probs = (logits_1V[0, kept].double() / temperature).softmax(dim=0)
        close(probs, golden[name][order], 1e-4)


@torch.inference_mode()
def test_bias_added_once_is_noticed(
    backbone: Backbone, golden: dict[str, np.ndarray], prompt_1S: Tensor, info: dict[str, Any]
) -> None:
    """The trap of the released weights: with one bias they give noise, and nothing else warns."""
    config = dataclasses.replace(
        backbone.config, trunk=trunk_config(info["config"], double_fc1_bias=False)
    )
    single = Backbone(config)
    single.load_state_dict(backbone.state_dict())
    hidden_D = single.eval().hidden(prompt_1S)[0, -1]
    close(hidden_D, golden["single_bias_hidden_last"], 1e-4)
    assert (hidden_D - backbone.hidden(prompt_1S)[0, -1]).abs().max() > 0.05


@torch.inference_mode()
def test_greedy_over_the_whole_vocabulary(
    backbone: Backbone, golden: dict[str, np.ndarray], prompt_1S: Tensor
) -> None:
    """Token by token through the cache must give what the reference gives, or songs drift."""
    cache = backbone.new_cache(1, prompt_1S.shape[1] + 32)
    hidden_1SD, written = backbone.hidden(prompt_1S, cache=cache), []
    for _ in range(32):
        logits = backbone.window_logits(hidden_1SD[:, -1:], 0, backbone.config.vocab_size)
        token_11 = logits.argmax(dim=2)
        written.append(int(token_11))
        if len(written) < 32:
            hidden_1SD = backbone.hidden(token_11, cache=cache)
    assert written == golden["greedy_free"].tolist()


@torch.inference_mode()
def test_greedy_restricted_to_audio(
    backbone: Backbone, golden: dict[str, np.ndarray], prompt_1S: Tensor
) -> None:
    """What the generator does at top-k 1, after a prompt that already holds audio."""
    layout = backbone.config.layout
    cache = backbone.new_cache(1, prompt_1S.shape[1] + 32)
    hidden_1SD, written = backbone.hidden(prompt_1S, cache=cache), []
    for step in range(32):
        lo, hi = layout.window(step % 2)
        token_11 = lo + backbone.window_logits(hidden_1SD[:, -1:], lo, hi).argmax(dim=2)
        written.append(int(token_11))
        if step < 31:
            hidden_1SD = backbone.hidden(token_11, cache=cache)
    assert written == golden["greedy_audio"].tolist()


def test_generator_is_greedy_at_top_k_1(backbone: Backbone, prompt_1S: Tensor) -> None:
    """The product's generator must be the plain argmax loop when asked for the best candidate."""
    layout = backbone.config.layout
    text_S = prompt_1S[0][prompt_1S[0] < layout.text_vocab_size]
    codes_2T, ended = generate_coarse(
        backbone,
        text_S,
        num_frames_min=4,
        num_frames_max=4,
        temperature=1.0,
        top_k=1,
        seed=0,
    )
    assert ended == "limit"
    tokens = text_S
    for step in range(8):
        lo, hi = layout.window(step % 2)
        hidden_D = backbone.hidden(tokens[None])[0, -1]
        best = F.linear(hidden_D, backbone.lm_head.weight[lo:hi]).argmax()
        assert int(best) == int(codes_2T[step % 2, step // 2])
        tokens = torch.cat((tokens, (lo + best)[None]))
