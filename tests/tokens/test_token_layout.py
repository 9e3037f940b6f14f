"""Where each kind of id lives, and codes to tokens and back."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from khala.errors import ConfigError, RequestError, TokenError
from khala.tokens import TokenLayout, deinterleave, interleave, nano_layout, published_layout

LAYOUTS = {"nano": nano_layout(), "published": published_layout()}
NANO = LAYOUTS["nano"]


def test_published_ids() -> None:
    """Published weights read under other ids would sing nonsense, without any error."""
    layout = published_layout()
    control = layout.control
    assert (control.begin_of_text, control.end_of_text) == (128_000, 128_001)
    assert (control.begin_lyrics, control.end_line, control.separator) == (
        128_006,
        128_007,
        128_008,
    )
    assert (control.end_of_prompt, control.begin_audio) == (128_009, 128_010)
    minutes = [128_002, 128_003, 128_005, *(128_008 + n for n in range(3, 11))]
    assert list(control.durations) == minutes
    assert control.duration_unit_s == 60
    assert (layout.marker_id(0), layout.marker_id(2), layout.marker_id(63)) == (
        128_255,
        128_253,
        128_192,
    )
    assert layout.window(0) == (128_256, 129_280)
    assert layout.window(63) == (192_768, 193_792)
    assert (layout.vocab_size(2), layout.vocab_size(64)) == (130_304, 193_792)


def test_nano_ids() -> None:
    """The bundled weights were trained on these ids; a moved one is another language."""
    control = NANO.control
    assert control.ids()[:7] == tuple(range(256, 263))
    assert control.durations == tuple(range(263, 354))
    assert (control.duration_unit_s, control.max_duration_s) == (2, 180)
    assert (NANO.marker_id(0), NANO.marker_id(63)) == (511, 448)
    assert (NANO.first_id(0), NANO.vocab_size(64)) == (512, 512 + 64 * 1024)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_no_id_means_two_things(layout: TokenLayout) -> None:
    """An id shared by a duration and a marker would make a song end in its middle."""
    markers = [layout.marker_id(level) for level in range(layout.num_levels)]
    ids = [*layout.control.ids(), *markers]
    assert len(set(ids)) == len(ids)
    assert layout.first_control_id == min(ids)
    assert max(ids) < layout.first_id(0)
    windows = [layout.window(level) for level in range(layout.num_levels)]
    assert all(high == low for (_, high), (low, _) in itertools.pairwise(windows))


def test_duration_is_rounded_to_the_nearest_unit() -> None:
    """A wish of three minutes must not reach the model as two or four."""
    control = NANO.control
    for duration_s, unit in ((1.0, 1), (2.9, 1), (3.0, 2), (30, 15), (180, 90)):
        assert control.duration_id(duration_s) == control.durations[unit]
    for duration_s in (180.1, float("nan"), 0):
        with pytest.raises(RequestError, match="up to 180 seconds"):
            control.duration_id(duration_s)


def test_bad_layouts_are_refused() -> None:
    """A typing error in a config would put audio where text is."""
    control = NANO.control
    with pytest.raises(ConfigError, match="different"):
        dataclasses.replace(control, separator=control.end_line)
    with pytest.raises(ConfigError, match="duration_unit_s"):
        dataclasses.replace(control, duration_unit_s=0.0)
    with pytest.raises(ConfigError, match="durations"):
        dataclasses.replace(control, durations=(300,))
    with pytest.raises(ConfigError, match="markers"):
        dataclasses.replace(NANO, text_vocab_size=400)
    with pytest.raises(ConfigError, match="positive"):
        dataclasses.replace(NANO, codebook_size=0)
    for level in (-1, 64):
        with pytest.raises(TokenError, match="0 to 63"):
            NANO.first_id(level)
    with pytest.raises(TokenError, match="0 to 64"):
        NANO.vocab_size(65)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 6), st.integers(0, 2**32))
def test_interleave_is_the_plain_loop(batch: int, levels: int, frames: int, seed: int) -> None:
    """A level or frame in the wrong place is another song."""
    generator = torch.Generator().manual_seed(seed)
    codes_BQT = torch.randint(0, 1024, (batch, levels, frames), generator=generator)
    expected = [
        [NANO.first_id(q) + int(codes[q, t]) for t in range(frames) for q in range(levels)]
        for codes in codes_BQT
    ]
    tokens_BS = interleave(codes_BQT.short(), NANO)
    assert tokens_BS.tolist() == expected
    assert tokens_BS.dtype == torch.int64
    assert torch.equal(deinterleave(tokens_BS, NANO, num_levels=levels), codes_BQT)


@pytest.mark.parametrize(
    "codes_BQT",
    [
        torch.tensor([[[1024]]]),
        torch.tensor([[[-1]]]),
        torch.zeros(1, 65, 2, dtype=torch.int64),
        torch.zeros(1, 0, 2, dtype=torch.int64),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(1, 2, 3),
    ],
)
def test_bad_codes_are_refused(codes_BQT: torch.Tensor) -> None:
    """A code outside its codebook is an index that stops the graphics card, with all its songs."""
    with pytest.raises(TokenError):
        interleave(codes_BQT, NANO)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[512, 1536, 512]], "inside a frame"),
        ([[512, 512]], r"position 1 is not of level 1: ids of that level lie in \[1536, 2560\)"),
        ([[512, 1536, 511, 1536]], "position 2"),
        ([[512, 2560]], "position 1"),
        ([512, 1536], "shape"),
        ([[512.0, 1536.0]], "type"),
    ],
)
def test_bad_tokens_are_refused(tokens: list[list[int]], message: str) -> None:
    """A text id among the audio would reach the decoder as a code."""
    with pytest.raises(TokenError, match=message):
        deinterleave(torch.tensor(tokens), NANO, num_levels=2)


def test_importing_tokens_loads_no_torch() -> None:
    """A form that shows lyrics back would need seconds and gigabytes to do it."""
    code = "import sys, khala.tokens; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
