"""The watched head: which letters a frame sings, and attention that is where it should be."""

from itertools import pairwise

import torch

from khala.corpus import Word
from khala.nn import Trunk, TrunkConfig
from khala.song import SongRequest
from khala.tokens import TextTokenizer, build_prompt, nano_layout
from khala.train.alignment import WatchedHead, letters_sung, word_spans

LYRICS = "[Verse 1]\nthe sun is the sun\nyou're gone"
WORDS = [
    Word(word, i, i + 1.0)
    for i, word in enumerate(["the", "sun", "is", "the", "sun", "you're", "gone"])
]


def test_each_word_is_found_where_it_is_written() -> None:
    """A word taken for its earlier twin teaches the model to sing the first line for ever."""
    layout, tokenizer = nano_layout(), TextTokenizer.bytes()
    request = SongRequest(prompt="the sun", lyrics=LYRICS)
    prompt = build_prompt(request, layout, tokenizer, max_tokens=200)
    spans = word_spans(prompt, WORDS, layout, tokenizer)
    assert spans is not None
    found = [tokenizer.decode(prompt[first : last + 1]) for first, last in spans]
    assert found == [word.text for word in WORDS]
    assert all(a[1] < b[0] for a, b in pairwise(spans))
    assert word_spans(prompt, [Word("verse", 0, 1)], layout, tokenizer) is None


def test_letters_move_with_time() -> None:
    """Letters out of step with the sound are no help."""
    letters = letters_sung([Word("abcdefgh", 1.0, 2.0)], [(10, 17)], num_frames=40, duration_s=4.0)
    assert letters[0, 0] in (9, 10)
    assert letters[-1, 0] == 20
    assert letters[0, 1:].tolist() == [10, 11]
    assert letters[-1, 1:].tolist() == [16, 17]
    assert (letters[:, 1] <= letters[:, 2]).all()


def test_loss_is_the_attention_that_falls_elsewhere() -> None:
    """A loss that watched another head, or other keys, would train nothing."""
    torch.manual_seed(0)
    config = TrunkConfig(
        width=16, num_layers=2, num_heads=4, num_kv_heads=2, head_width=8, ffn_width=16
    )
    trunk = Trunk(config, max_positions=32)
    hidden_1SD = torch.randn(1, 24, 16)
    with WatchedHead(trunk, 1, 2) as head:
        trunk.transform(hidden_1SD, causal=True, lengths=[11, 13])
    everything = torch.tensor([[0, 5, 0, 5], [11, 18, 11, 18]])
    assert abs(float(head.loss(everything).detach())) < 1e-5
    halves = torch.tensor([[0, 5, 0, 2]]), torch.tensor([[0, 5, 3, 5]])
    parts = [float((-head.loss(half)).exp().detach()) for half in halves]
    assert abs(sum(parts) - 1) < 1e-5
    head.loss(everything[:, [0, 1, 2, 2]]).backward()  # type: ignore[no-untyped-call]
    gradient = trunk.layers[1].attn.q_proj.weight.grad
    assert gradient is not None
    assert gradient[16:24].abs().sum() > 0
    assert gradient[:16].abs().sum() == 0
    assert float(head.loss(everything[:0])) == 0.0
