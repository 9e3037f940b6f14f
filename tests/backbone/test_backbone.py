"""The backbone: causal, addressed, and able to learn."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from khala.backbone import Backbone, BackboneConfig, generate_coarse, next_token_losses
from khala.errors import CheckpointError, ConfigError, RequestError, TokenError
from khala.nn import TrunkConfig
from khala.tokens import ControlTokens, TokenLayout, interleave

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
CONFIG = BackboneConfig(trunk=TRUNK, layout=LAYOUT, max_positions=64, num_rows=80)
PROMPT = [20, 3, 5, 24, 25, 26]


@pytest.fixture
def backbone() -> Backbone:
    """A model whose rows past the vocabulary would shout if anyone listened."""
    model = Backbone(CONFIG, seed=1)
    with torch.no_grad():
        model.lm_head.weight *= 20
        model.lm_head.weight[CONFIG.vocab_size :] = 100.0
    return model.eval()


def generate(model: Backbone, **changes: object) -> tuple[Tensor, str]:
    """Generate with the values of these tests unless told otherwise."""
    settings: dict[str, object] = {
        "num_frames_min": 8,
        "num_frames_max": 8,
        "temperature": 1.0,
        "top_k": 8,
        "seed": 3,
        **changes,
    }
    return generate_coarse(model, PROMPT, **settings)  # type: ignore[arg-type]


def test_nothing_is_heard_before_it_is_written(backbone: Backbone) -> None:
    """Causality by gradient: a model that sees the future trains well and then sings nonsense."""
    tokens_BS = torch.randint(0, CONFIG.vocab_size, (2, 12), generator=torch.manual_seed(0))
    rows_BSD = backbone.embed(tokens_BS).detach().requires_grad_()
    hidden_BSD = backbone.transform(rows_BSD, causal=True)
    for position in (0, 5, 11):
        (grad,) = torch.autograd.grad(
            hidden_BSD[:, position].square().sum() + hidden_BSD[:, position].sum(),
            rows_BSD,
            retain_graph=True,
        )
        sizes = grad.abs().sum(dim=(0, 2))
        assert bool((sizes[: position + 1] > 0).all())
        assert bool((sizes[position + 1 :] == 0).all())


@torch.inference_mode()
def test_logits_cover_the_real_vocabulary_only(backbone: Backbone) -> None:
    """A padded row that wins would be an id no codec can play."""
    logits_BSV = backbone(torch.tensor([PROMPT]))
    assert logits_BSV.shape == (1, 6, LAYOUT.vocab_size(2))
    assert logits_BSV.dtype == torch.float32
    lo, hi = LAYOUT.window(1)
    window = backbone.window_logits(backbone.hidden(torch.tensor([PROMPT])), lo, hi)
    torch.testing.assert_close(window, logits_BSV[..., lo:hi])


@torch.inference_mode()
def test_batch_equals_alone(backbone: Backbone) -> None:
    """Two songs scored together must score what they score apart, padded or not."""
    long_S = torch.randint(0, CONFIG.vocab_size, (14,), generator=torch.manual_seed(1))
    short_S = long_S.flip(0)[:9]
    batch = torch.stack((long_S, F.pad(short_S, (0, 5))))
    together = backbone(batch)
    torch.testing.assert_close(together[0], backbone(long_S[None])[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together[1, :9], backbone(short_S[None])[0], atol=1e-5, rtol=0)


def test_generator_repeats_itself_and_only_writes_codes(backbone: Backbone) -> None:
    """The same request must give the same song, and another seed another one."""
    seen: list[int] = []
    codes_2T, ended = generate(backbone, on_frame=seen.append)
    assert ended == "limit"
    assert codes_2T.shape == (2, 8)
    assert seen == list(range(1, 9))
    assert int(codes_2T.min()) >= 0
    assert int(codes_2T.max()) < LAYOUT.codebook_size
    assert torch.equal(codes_2T, generate(backbone)[0])
    assert not torch.equal(codes_2T, generate(backbone, seed=4)[0])


def test_a_shorter_limit_gives_the_beginning_of_the_same_song(backbone: Backbone) -> None:
    """Asking for less must not be asking for something else: draws are addressed by frame."""
    codes_2T, _ = generate(backbone)
    shorter, _ = generate(backbone, num_frames_min=3, num_frames_max=3)
    assert torch.equal(shorter, codes_2T[:, :3])


def test_the_song_may_end_only_when_it_is_long_enough(backbone: Backbone) -> None:
    """Ending at once would be silence; never ending would be a cut."""
    with torch.no_grad():
        backbone.lm_head.weight[CONTROL.end_of_text] = 0.0
        codes_2T, _ = generate(backbone, temperature=0.0, num_frames_min=8)
        hidden_D = backbone.hidden(
            torch.cat((torch.tensor(PROMPT), interleave(codes_2T[None, :, :5], LAYOUT)[0]))[None]
        )[0, -1]
        backbone.lm_head.weight[CONTROL.end_of_text] = 100.0 * hidden_D
    early, ended = generate(backbone, temperature=0.0, num_frames_min=5)
    assert ended == "end_token"
    assert torch.equal(early, codes_2T[:, :5])
    late, ended = generate(backbone, temperature=0.0, num_frames_min=6)
    assert late.shape[1] >= 6
    whole, ended = generate(backbone, temperature=0.0, num_frames_min=8)
    assert ended == "limit"
    assert torch.equal(whole, codes_2T)


def test_stopping_keeps_what_is_there(backbone: Backbone) -> None:
    """A cancelled song must leave the frames that were paid for."""
    asked: list[None] = []

    def stop_at_third() -> bool:
        asked.append(None)
        return len(asked) == 4

    codes_2T, ended = generate(backbone, should_stop=stop_at_third)
    assert ended == "cancelled"
    assert torch.equal(codes_2T, generate(backbone)[0][:, :3])


def test_what_cannot_be_generated_is_refused(backbone: Backbone) -> None:
    """Errors must come before the work, and name the limit."""
    with pytest.raises(RequestError, match="29 frames"):
        generate(backbone, num_frames_max=40)
    with pytest.raises(RequestError, match="frames"):
        generate(backbone, num_frames_min=9)
    settings = {"num_frames_min": 1, "num_frames_max": 2, "temperature": 1.0, "top_k": 2, "seed": 0}
    for prompt in ([], [40], [-1]):
        with pytest.raises(TokenError):
            generate_coarse(backbone, prompt, **settings)  # type: ignore[arg-type]
    with pytest.raises(TokenError, match="72"):
        backbone(torch.tensor([[72]]))


def guided_by_hand(model: Backbone, bare: list[int], scale: float) -> Tensor:
    """What guidance means, written with whole streams, greedily, among the 8 likeliest."""
    written: list[int] = []
    for step in range(16):
        lo, hi = LAYOUT.window(step % 2)
        asked, alone = (
            model(torch.tensor([prompt + written]))[0, -1, lo:hi] for prompt in (PROMPT, bare)
        )
        scores = alone + scale * (asked - alone)
        kept = asked.topk(8).indices
        written.append(lo + int(kept[scores[kept].argmax()]))
    return torch.tensor(written)


@torch.inference_mode()
def test_guidance_moves_away_from_the_bare_prompt(backbone: Backbone) -> None:
    """A wrong sign, or rows of unequal length mixed up, would sing anything but what was asked."""
    bare = [20, 24, 25, 26]
    for scale in (2.0, 5.0):
        codes_2T, _ = generate(backbone, temperature=1e-4, guidance_scale=scale, bare_S=bare)
        written = interleave(codes_2T[None], LAYOUT)[0]
        assert torch.equal(written, guided_by_hand(backbone, bare, scale)), scale
    plain, guided = generate(backbone)[0], generate(backbone, guidance_scale=5.0, bare_S=bare)[0]
    assert not torch.equal(plain, guided)
    assert torch.equal(plain, generate(backbone, bare_S=bare)[0]), "1 is no guidance"
    same = generate(backbone, guidance_scale=3.0, bare_S=PROMPT)[0]
    assert torch.equal(plain, same), "nothing to move away from"
    with pytest.raises(RequestError, match="bare"):
        generate(backbone, guidance_scale=2.0)


def example() -> tuple[Tensor, Tensor]:
    """Two songs of different length with their loss masks; the second ends with the end token."""
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(0, 16, (2, 2, 5), generator=generator)
    audio = interleave(codes, LAYOUT)
    prompt = torch.tensor(PROMPT)
    long_S = torch.cat((prompt, audio[0], torch.tensor([21])))
    short_S = torch.cat((prompt[:-2], audio[1, :6], torch.tensor([21])))
    tokens_BS = torch.stack((long_S, F.pad(short_S, (0, len(long_S) - len(short_S)), value=-1)))
    mask_BS = torch.zeros_like(tokens_BS, dtype=torch.bool)
    mask_BS[0, 6:] = True
    mask_BS[1, 4:11] = True
    return tokens_BS, mask_BS


def test_loss_is_the_obvious_one(backbone: Backbone) -> None:
    """An off-by-one in the shift or the mask would teach the model to repeat its input."""
    tokens_BS, mask_BS = example()
    for full in (False, True):
        losses = {
            name: value.detach()
            for name, value in next_token_losses(
                backbone, tokens_BS, mask_BS, full_vocabulary=full
            ).items()
        }
        each: dict[str, list[float]] = {"level_0": [], "level_1": [], "end": []}
        for row in range(2):
            logits_SV = backbone(tokens_BS[row : row + 1].clamp_min(0))[0].detach()
            if not full:
                keep = torch.zeros(LAYOUT.vocab_size(2), dtype=torch.bool)
                keep[LAYOUT.first_id(0) :] = True
                keep[21] = True
                logits_SV = logits_SV.masked_fill(~keep, float("-inf"))
            for s in range(1, tokens_BS.shape[1]):
                if mask_BS[row, s]:
                    token = int(tokens_BS[row, s])
                    value = -float(logits_SV[s - 1].log_softmax(0)[token])
                    name = "end" if token == 21 else f"level_{(token - 40) // 16}"
                    each[name].append(value)
        for name, values in each.items():
            assert float(losses[name]) == pytest.approx(sum(values) / len(values), abs=1e-4)
        everything = [value for values in each.values() for value in values]
        assert float(losses["loss"]) == pytest.approx(sum(everything) / len(everything), abs=1e-4)


def test_overfits_two_songs() -> None:
    """A model that cannot learn two songs by heart will not learn any music at all."""
    backbone = Backbone(CONFIG, seed=0)
    tokens_BS, mask_BS = example()
    optimiser = torch.optim.AdamW(backbone.parameters(), lr=1e-2)
    for _ in range(60):
        loss = next_token_losses(backbone, tokens_BS, mask_BS)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss.item() < 0.05
    codes_2T, ended = generate(backbone.eval(), top_k=1, num_frames_min=0, num_frames_max=12)
    assert ended == "end_token"
    written = interleave(codes_2T[None], LAYOUT)[0]
    assert written.tolist() == tokens_BS[0, 6:16].tolist()


def test_loss_accepts_autocast(backbone: Backbone) -> None:
    """Training runs in bfloat16; its loss must be the same loss, rounded."""
    tokens_BS, mask_BS = example()
    exact = next_token_losses(backbone, tokens_BS, mask_BS)["loss"].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = next_token_losses(backbone, tokens_BS, mask_BS)
    assert losses["loss"].dtype == torch.float32
    losses["loss"].backward()
    assert losses["loss"].item() == pytest.approx(exact, rel=0.05)


def test_saved_is_what_is_loaded(backbone: Backbone, tmp_path: Path) -> None:
    """Weights that change on their way to disk make the published song impossible to replay."""
    backbone.save(tmp_path / "model" / "backbone")
    for path in (tmp_path / "model", tmp_path / "model" / "backbone"):
        again = Backbone.from_pretrained(path)
        assert again.config == CONFIG
        assert not again.training
        assert torch.equal(generate(again)[0], generate(backbone)[0])
    names = set(backbone.state_dict())
    assert {"embed.weight", "lm_head.weight", "norm.weight"} < names
    assert "layers.1.attn.q_proj.bias" in names
    assert all(name.split(".")[0] in ("embed", "lm_head", "norm", "layers") for name in names)
    with pytest.raises(CheckpointError):
        Backbone.from_pretrained(tmp_path / "nowhere")


def test_impossible_configs_are_refused() -> None:
    """A recipe with a slip must say so before a night of training."""
    for change in ({"max_positions": 2}, {"num_rows": 71}, {"factor_rank": 8}):
        with pytest.raises(ConfigError):
            dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
