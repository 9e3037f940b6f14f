"""Sampling from the whole vocabulary, as the published program does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from khala.backbone import Backbone, BackboneConfig
from khala.backbone.free import fits_its_place, generate_free, paired_codes
from khala.errors import RequestError, StageError, TokenError
from khala.nn import TrunkConfig
from khala.tokens import nano_layout

LAYOUT = nano_layout()
PROMPT = [256, 260, 260, 258, 259, 97, 260, 264, 261, 262]
END = LAYOUT.control.end_of_text


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    trunk = TrunkConfig(
        width=16, num_layers=2, num_heads=2, num_kv_heads=1, head_width=8, ffn_width=16
    )
    config = BackboneConfig(trunk=trunk, layout=LAYOUT, max_positions=64, num_rows=2_600)
    return Backbone(config, seed=3).eval()


def free(backbone: Backbone, **changes: object) -> tuple[Tensor, str]:
    """Twenty ids after the prompt, or something else."""
    chosen = {"max_tokens": 20, "temperature": 1.0, "top_k": 80, "seed": 1} | changes
    return generate_free(backbone, PROMPT, **chosen)  # type: ignore[arg-type]


@torch.inference_mode()
def test_the_cache_gives_what_whole_streams_give(backbone: Backbone) -> None:
    """A slip in the cache would be taken for a defect of the published program."""
    tokens_S, ended = free(backbone, top_k=1)
    stream = torch.tensor(PROMPT)
    for token in tokens_S.tolist():
        assert int(backbone(stream[None])[0, -1].argmax()) == token
        stream = torch.cat((stream, torch.tensor([token])))
    assert ended == "limit"


def test_any_id_of_the_vocabulary_may_come(backbone: Backbone) -> None:
    """The defect itself: text and codes of the wrong level are sampled, unused rows never."""
    tokens = free(backbone, top_k=1_024, max_tokens=54)[0].tolist()
    assert min(tokens) < LAYOUT.text_vocab_size <= max(tokens) < backbone.config.vocab_size
    assert not all(fits_its_place(token, place, LAYOUT) for place, token in enumerate(tokens))


def test_draws_have_addresses(backbone: Backbone) -> None:
    """A song made as published must come out again, also when it was stopped; a seed is a song."""
    whole, _ = free(backbone)
    assert torch.equal(free(backbone)[0], whole)
    assert torch.equal(free(backbone, max_tokens=7)[0], whole[:7])
    assert not torch.equal(free(backbone, seed=2)[0], whole)
    polls = iter([False, False, True])
    part, ended = free(backbone, should_stop=lambda: next(polls))
    assert ended == "cancelled"
    assert torch.equal(part, whole[:4])
    heard: list[tuple[int, int]] = []
    free(backbone, on_token=lambda place, token: heard.append((place, token)))
    assert heard == list(enumerate(whole.tolist()))


@torch.inference_mode()
def test_the_end_token_ends_it_and_is_left_out(backbone: Backbone) -> None:
    """An end token counted as sound is an odd number of ids, which crashed the original."""
    eager = Backbone(backbone.config, seed=3).eval()
    whole, _ = free(eager, top_k=1)
    # The end token becomes what would have been written at place 3.
    row = eager.lm_head.weight[int(whole[3])].clone()
    eager.lm_head.weight[END] = 1.001 * row
    tokens_S, ended = free(eager, top_k=1)
    first = whole.tolist().index(int(whole[3]))
    assert ended == "end_token"
    assert tokens_S.tolist() == whole[:first].tolist()


def test_codes_of_a_good_stream_and_errors_of_bad_ones() -> None:
    """What no song can be made of is said, with the id and its place, and never played."""
    good = torch.tensor([512 + 5, 1536 + 6, 512 + 7, 1536 + 8])
    assert paired_codes(good, LAYOUT).tolist() == [[5, 7], [6, 8]]
    cases = {
        "2 of 4 ids .* first id 600 at place 1": torch.tensor([517, 600, 519, 97]),
        "inside a frame, after 3 ids": good[:3],
        "before its first frame": good[:0],
    }
    for words, tokens_S in cases.items():
        with pytest.raises(StageError, match=words) as info:
            paired_codes(tokens_S, LAYOUT)
        assert info.value.stage == "backbone"
        assert "\n" not in str(info.value)


def test_what_cannot_be_sampled(backbone: Backbone) -> None:
    """A prompt that leaves no room is an error before the work, not a crash after it."""
    with pytest.raises(RequestError, match="1 to 54 fit"):
        free(backbone, max_tokens=55)
    for bad in ([], [2_560]):
        with pytest.raises(TokenError):
            generate_free(backbone, bad, max_tokens=2, temperature=1.0, top_k=1, seed=0)
