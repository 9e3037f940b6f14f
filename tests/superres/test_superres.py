"""Super-resolution: two-sided, addressed, started from a backbone, and able to learn."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from khala.backbone import Backbone, BackboneConfig
from khala.errors import ConfigError, RequestError, TokenError
from khala.nn import TrunkConfig
from khala.nn.inference import InferenceTrunk
from khala.nn.init import hidden_std
from khala.superres import (
    Packing,
    Sketch,
    SuperResConfig,
    SuperResolution,
    complete_songs,
    task_0_losses,
    task_1_losses,
)
from khala.tokens import ControlTokens, TokenLayout

CONTROL = ControlTokens(
    begin_of_text=20,
    end_of_text=21,
    begin_lyrics=22,
    end_line=23,
    separator=24,
    end_of_prompt=25,
    begin_audio=26,
    durations=(27, 28),
    duration_unit_s=1.0,
)
LAYOUT = TokenLayout(text_vocab_size=40, codebook_size=16, num_levels=6, control=CONTROL)
TRUNK = TrunkConfig(width=24, num_layers=2, num_heads=6, num_kv_heads=2, head_width=8, ffn_width=40)
CONFIG = SuperResConfig(trunk=TRUNK, layout=LAYOUT, max_positions=64)
PROMPT_S = torch.tensor([20, 3, 5, 24, 25, 26])


@pytest.fixture(params=[None, 8], ids=["full", "low-rank"])
def model(request: pytest.FixtureRequest) -> SuperResolution:
    """A model loud enough that every code and marker matters."""
    config = dataclasses.replace(CONFIG, factor_rank=request.param)
    superres = SuperResolution(config, seed=1)
    with torch.no_grad():
        superres.embed.weight *= 20
        superres.lm_head.weight *= 20
        if superres.levels is not None:
            superres.levels.codes.weight *= 20
            superres.levels.out_bias.normal_(generator=torch.Generator().manual_seed(4))
    return superres.eval()


def some_codes(num_frames: int = 9, batch: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 16, (batch, 6, num_frames), generator=generator)


def packed(prompts: list[int], frames: list[int]) -> Packing:
    return Packing(
        prompt_lengths_B=torch.tensor(prompts),
        num_frames_B=torch.tensor(frames),
        max_prompt=max(prompts),
        max_frames=max(frames),
        is_full=False,
    )


def batch_of_two() -> tuple[Tensor, Tensor, Packing]:
    """A short song beside a long one; rubbish under the padding."""
    prompts = torch.stack((PROMPT_S, torch.tensor([20, 7, 25, 26, 13, 13])))
    return prompts, some_codes(batch=2), packed([6, 4], [9, 5])


def test_every_frame_hears_both_sides_and_no_padding(model: SuperResolution) -> None:
    """Two-sidedness by gradient: deaf to what follows, a level cannot prepare an ending."""
    prompt_BP, codes_BQT, packing = batch_of_two()
    frames_BTD = model.embed_levels(codes_BQT, 3).detach().requires_grad_()
    hidden_BSD = model.level_hidden(prompt_BP, frames_BTD, [3, 3], packing=packing)
    at_BTD = packing.frames_of(hidden_BSD)
    (grad,) = torch.autograd.grad(at_BTD[:, 2].square().sum() + at_BTD[:, 2].sum(), frames_BTD)
    sizes_BT = grad.abs().sum(dim=2)
    assert bool((sizes_BT[0] > 0).all())
    assert bool((sizes_BT[1, :5] > 0).all())
    assert bool((sizes_BT[1, 5:] == 0).all())


def test_task_0_hears_only_what_came_before(model: SuperResolution) -> None:
    """Task 0 with a view of its own answer teaches copying, and the words are lost."""
    prompt_BP, codes_BQT, packing = batch_of_two()
    frames_BTD = model.embed_levels(codes_BQT, 1).detach().requires_grad_()
    hidden = model.level_hidden(prompt_BP, frames_BTD, [0, 0], packing=packing, causal=True)
    before_BTD = packing.frames_of(hidden, shift=-1)
    (grad,) = torch.autograd.grad(before_BTD[:, 3].square().sum(), frames_BTD)
    sizes_BT = grad.abs().sum(dim=2)
    assert bool((sizes_BT[:, :3] > 0).all())
    assert bool((sizes_BT[:, 3:] == 0).all())


@torch.inference_mode()
def test_levels_are_summed_as_a_loop_would(model: SuperResolution) -> None:
    """The fast sum must be the plain sum of what each level adds, song by song."""
    codes_BQT = some_codes(batch=3)
    numbers = [1, 6, 3]
    fast = model.embed_levels(codes_BQT, numbers)
    for item, num in enumerate(numbers):
        slow = sum(model.embed_level(codes_BQT[item, level], level) for level in range(num))
        assert isinstance(slow, Tensor)
        torch.testing.assert_close(fast[item], slow, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        model.embed_levels(codes_BQT, 4), model.embed_levels(codes_BQT, [4, 4, 4])
    )


@torch.inference_mode()
def test_a_song_is_the_same_alone_and_in_a_batch(model: SuperResolution) -> None:
    """A song must not depend on whose song is generated beside it, or on padding."""
    codes = some_codes(batch=2)
    sketches = [
        Sketch(prompt_S=PROMPT_S, codes_QT=codes[0, :2], seed=5),
        Sketch(prompt_S=PROMPT_S[1:5], codes_QT=codes[1, :2, :4], seed=6),
    ]
    together = complete_songs(model, sketches, top_k=6)
    for sketch, codes_QT in zip(sketches, together, strict=True):
        alone = model.complete(sketch.prompt_S, sketch.codes_QT, top_k=6, seed=sketch.seed)
        assert torch.equal(alone, codes_QT)
        assert torch.equal(codes_QT[:2], sketch.codes_QT)


@torch.inference_mode()
def test_published_draws_depend_on_prompt_and_padding(model: SuperResolution) -> None:
    """The defect as it is: another length of padding or prompt is other noise, ours never."""

    def complete(padded: int | None, num_ids: int = 6) -> Tensor:
        prompt_S = torch.cat((PROMPT_S[:1].repeat(num_ids - 6), PROMPT_S))
        sketch = Sketch(prompt_S=prompt_S, codes_QT=some_codes()[0, :2], seed=5)
        return complete_songs(model, [sketch], top_k=16, padded_positions=padded)[0]

    assert torch.equal(complete(32), complete(32))
    assert torch.equal(complete(32)[2], complete(40)[2]), "in the first pass nothing came before"
    assert not torch.equal(complete(32)[3:], complete(40)[3:])
    # Shorter padding than the song is none: 6 tokens and 9 frames.
    assert torch.equal(complete(4), complete(15))
    with torch.no_grad():
        model.embed.weight[:40] = 0.0  # text says nothing now, but for where it stands
        model.norm.weight.zero_()  # and all codes are equally likely but for the noise
    assert torch.equal(complete(None, 6), complete(None, 8))
    assert torch.equal(complete(32, 6)[2, 2:], complete(32, 8)[2, :-2]), (
        "rows count from the prompt"
    )


def test_temperature_of_a_call(model: SuperResolution) -> None:
    """A model's own temperature must not colour what is compared with the published program."""
    sketch = Sketch(prompt_S=PROMPT_S, codes_QT=some_codes()[0, :2], seed=5)
    config = dataclasses.replace(model.config, sampling_temperature=0.5)
    (own,) = complete_songs(model, [sketch], top_k=16)
    model.config = config
    assert not torch.equal(complete_songs(model, [sketch], top_k=16)[0], own)
    assert torch.equal(complete_songs(model, [sketch], top_k=16, temperature=1.0)[0], own)


def test_resumed_equals_never_stopped(model: SuperResolution) -> None:
    """Refining a sketch tomorrow must give the master that today would have given."""
    coarse = some_codes()[0, :2]
    whole = model.complete(PROMPT_S, coarse, top_k=6, seed=9)
    assert whole.shape == (6, 9)
    some = model.complete(PROMPT_S.tolist(), coarse, top_k=6, seed=9, levels=4)
    assert torch.equal(some, whole[:4])
    assert torch.equal(model.complete(PROMPT_S, some, top_k=6, seed=9), whole)
    stops = iter((False, False, True))
    stopped = model.complete(PROMPT_S, coarse, 6, 9, should_stop=lambda: next(stops))
    assert torch.equal(stopped, whole[:4])
    assert not torch.equal(model.complete(PROMPT_S, coarse, top_k=6, seed=10), whole)


@torch.inference_mode()
def test_one_pass_per_level(model: SuperResolution, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress counts passes; one more or fewer would break its promise, and the codes."""
    passes: list[int] = []
    whole = InferenceTrunk.whole

    def counted(trunk: InferenceTrunk, hidden_RD: Tensor, lengths: list[int]) -> Tensor:
        passes.append(1)
        return whole(trunk, hidden_RD, lengths)

    monkeypatch.setattr(InferenceTrunk, "whole", counted)
    done: list[int] = []
    model.complete(PROMPT_S, some_codes()[0, :2], on_level=done.append)
    assert len(passes) == LAYOUT.num_levels - 2
    assert done == [3, 4, 5, 6]


@torch.inference_mode()
def test_the_running_sum_is_exact_enough(model: SuperResolution) -> None:
    """The shortcut of adding one level at a time must choose the codes that recomputing would."""
    coarse = some_codes()[0, :2]
    fast = model.complete(PROMPT_S, coarse, top_k=1)
    model.config = dataclasses.replace(model.config, sampling_temperature=1e-6)
    cold = model.complete(PROMPT_S, coarse, top_k=8)
    assert torch.equal(cold, fast), "the model's own temperature divides the logits"
    codes = coarse[None]
    packing = Packing.full(1, 6, 9, torch.device("cpu"))
    for level in range(2, 6):
        frames = model.embed_levels(codes, level)
        hidden = model.level_hidden(PROMPT_S[None], frames, [level], packing=packing)
        best = model.level_logits(packing.frames_of(hidden), level).argmax(dim=2)
        codes = torch.cat((codes, best[:, None]), dim=1)
    assert torch.equal(fast, codes[0])


def test_bfloat16_passes_run(model: SuperResolution) -> None:
    """The fast path of a CPU must stay close to the exact one."""
    coarse = some_codes()[0, :2]
    rough = model.complete(PROMPT_S, coarse, top_k=1, levels=3, autocast=torch.bfloat16)
    exact = model.complete(PROMPT_S, coarse, top_k=1, levels=3)
    assert float((rough == exact).float().mean()) > 0.6


def test_what_cannot_be_completed_is_refused(model: SuperResolution) -> None:
    """Errors must come before the work, and name the limit."""
    coarse = some_codes()[0, :2]
    for prompt, codes in (
        (PROMPT_S[:0], coarse),
        (PROMPT_S, coarse + 16),
        (PROMPT_S, coarse[:, :0]),
        (PROMPT_S + 30, coarse),
    ):
        with pytest.raises(TokenError):
            model.complete(prompt, codes)
    with pytest.raises(RequestError, match="64 positions"):
        model.complete(PROMPT_S, coarse.repeat(1, 8))
    for levels in (1, 7):
        with pytest.raises(RequestError, match="levels"):
            model.complete(PROMPT_S, coarse, levels=levels)
    with pytest.raises(RequestError, match="no song"):
        complete_songs(model, [])


@pytest.mark.parametrize("rank", [None, 8])
def test_starts_from_the_backbone(rank: int | None) -> None:
    """The paper's finding: started elsewhere, a fifth more words are misheard."""
    backbone = Backbone(
        BackboneConfig(trunk=TRUNK, layout=LAYOUT, max_positions=32, num_rows=90), seed=7
    )
    model = SuperResolution.from_backbone(
        backbone, dataclasses.replace(CONFIG, factor_rank=rank), seed=8
    )
    theirs = backbone.state_dict()
    for name, tensor in model.state_dict().items():
        if name in ("embed.weight", "lm_head.weight"):
            assert torch.equal(tensor[:72], theirs[name][:72])
        elif not name.startswith("levels."):
            assert torch.equal(tensor, theirs[name])
    model.embed.weight.data.zero_()
    assert float(backbone.embed.weight.detach().abs().max()) > 0, "copied, not shared"
    other = dataclasses.replace(CONFIG, trunk=dataclasses.replace(TRUNK, num_layers=1))
    with pytest.raises(ConfigError, match="trunk"):
        SuperResolution.from_backbone(backbone, other)
    smaller = dataclasses.replace(CONFIG, layout=dataclasses.replace(LAYOUT, codebook_size=8))
    with pytest.raises(ConfigError, match="codebooks"):
        SuperResolution.from_backbone(backbone, smaller)


def test_task_1_is_the_obvious_loss(model: SuperResolution) -> None:
    """Unshifted, one level, real frames only: anything else trains a model nobody samples."""
    prompt_BP, codes_BQT, packing = batch_of_two()
    for levels in ([4, 4], [1, 5]):
        losses = task_1_losses(model, prompt_BP, codes_BQT, levels, packing=packing)
        each = []
        for item, (num_text, num_frames) in enumerate(((6, 9), (4, 5))):
            codes = codes_BQT[item : item + 1, :, :num_frames]
            alone = Packing.full(1, num_text, num_frames, codes.device)
            level = levels[item]
            hidden = model.level_hidden(
                prompt_BP[item : item + 1, :num_text],
                model.embed_levels(codes, level),
                [level],
                packing=alone,
            )
            logits_TV = model.level_logits(alone.frames_of(hidden), level)[0]
            each.append(F.cross_entropy(logits_TV, codes[0, level], reduction="none"))
        wanted = torch.cat(each).mean()
        torch.testing.assert_close(losses["loss"], wanted, atol=1e-4, rtol=1e-4)


def test_task_0_is_the_obvious_loss(model: SuperResolution) -> None:
    """[text, marker 0, q0 so far] -> next q0, as one causal stream of tokens."""
    prompt_BP, codes_BQT, packing = batch_of_two()
    losses = task_0_losses(model, prompt_BP, codes_BQT, packing=packing)
    each = []
    for item, (num_text, num_frames) in enumerate(((6, 9), (4, 5))):
        text = prompt_BP[item, : num_text - 1]
        marker = torch.tensor([LAYOUT.marker_id(0)])
        level_0 = codes_BQT[item, 0, :num_frames]
        tokens = torch.cat((text, marker, LAYOUT.first_id(0) + level_0))
        hidden_SD = model.transform(model.embed(tokens)[None], causal=True)[0]
        lo, hi = LAYOUT.window(0)
        logits_TV = hidden_SD[num_text - 1 : -1] @ model.lm_head.weight[lo:hi].T
        each.append(F.cross_entropy(logits_TV, level_0, reduction="none"))
    torch.testing.assert_close(losses["loss"], torch.cat(each).mean(), atol=1e-4, rtol=1e-4)


def test_every_parameter_in_use_learns(model: SuperResolution) -> None:
    """A table without a gradient stays noise for the whole training, silently."""
    prompt_BP, codes_BQT, packing = batch_of_two()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one = task_1_losses(model, prompt_BP, codes_BQT, [5, 2], packing=packing)
        zero = task_0_losses(model, prompt_BP, codes_BQT, packing=packing)
    (one["loss"] + zero["loss"]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("rank", [None, 8])
def test_overfits_one_song(rank: int | None) -> None:
    """A model that cannot learn one song by heart will not learn any sound at all."""
    config = dataclasses.replace(CONFIG, factor_rank=rank)
    model = SuperResolution(config, seed=0)
    codes_BQT = some_codes(num_frames=6, seed=2)
    packing = Packing.full(1, 6, 6, torch.device("cpu"))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(140):
        level = 2 + step % 4
        loss = task_1_losses(model, PROMPT_S[None], codes_BQT, [level], packing=packing)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    codes_QT = model.eval().complete(PROMPT_S, codes_BQT[0, :2], top_k=1)
    assert torch.equal(codes_QT, codes_BQT[0])


def test_tables_start_at_their_formula_or_from_the_codec() -> None:
    """Products of factors must start as loud as the full tables, or training starts in noise."""
    config = dataclasses.replace(
        CONFIG,
        trunk=dataclasses.replace(TRUNK, width=128),
        layout=dataclasses.replace(LAYOUT, codebook_size=256, text_vocab_size=64),
        factor_rank=16,
    )
    model = SuperResolution(config, seed=1)
    assert model.levels is not None
    rows = model.embed_level(torch.arange(256), 4).detach()
    assert float(rows.std()) == pytest.approx(hidden_std(128), rel=0.1)
    logits = model.level_logits(torch.randn(200, 128), 4).detach()
    assert float(logits.std()) == pytest.approx(0.02 * 128**0.5, rel=0.15)
    latents = torch.randn(6, 256, 12, generator=torch.Generator().manual_seed(0))
    before = model.embed_level(torch.arange(256), 0).detach().clone()
    model.start_from_latents(latents)
    # Embeddings are the codec's vectors turned by one matrix: one for levels 0-1 and fine ones.
    turned = model.embed_level(torch.arange(256), 3).detach()
    added = model.embed_level(torch.arange(256), 0).detach() - before
    centred = latents - latents.mean(1, keepdim=True)
    turn = torch.linalg.lstsq(centred[3], turned).solution
    torch.testing.assert_close(centred[0] @ turn, added, atol=1e-4, rtol=1e-3)
    scores = model.levels.logits(turned[5:6], 3) - model.levels.out_bias[1]
    assert int(scores.argmax()) in (centred[3] @ centred[3, 5]).topk(3).indices
    with pytest.raises(ValueError, match="latents"):
        model.start_from_latents(latents[:5])
    chances = torch.rand(4, 256, generator=torch.Generator().manual_seed(1)) + 0.01
    chances /= chances.sum(1, keepdim=True)
    model.levels.start_from_chances(chances)
    start = model.levels.logits(torch.zeros(1, 128), 3).softmax(-1)[0]
    torch.testing.assert_close(start, chances[1])


def test_saved_is_what_is_loaded(model: SuperResolution, tmp_path: Path) -> None:
    """Weights that change on their way to disk make the published song impossible to replay."""
    model.save(tmp_path / "model" / "superres")
    again = SuperResolution.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    coarse = some_codes()[0, :2]
    assert torch.equal(again.complete(PROMPT_S, coarse), model.complete(PROMPT_S, coarse))


def test_impossible_configs_are_refused() -> None:
    """A recipe with a slip must say so before a night of training."""
    for change in ({"max_positions": 1}, {"num_rows": 135}, {"factor_rank": 0}):
        with pytest.raises(ConfigError):
            dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
