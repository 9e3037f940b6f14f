"""The plain numpy reference gives the recorded numbers, so it may speak for other sizes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from compare import compare, smallest_margin
from golden_sets import HERE, INFO, recorded, referred, tensors_of
from golden_weights import uniform


def test_formula_is_the_published_one() -> None:
    """Guard of the guards: with other weights, every parity test would prove nothing."""
    u = uniform("backbone/embed.weight", 1_000_001, 16)
    assert u[:2].tolist() == [-0.3340198998339474, -0.8635896844789386]
    assert u[1_000_000] == -0.796909976284951
    assert uniform("codec/encoder.block.0.weight_v", 2, 16).tolist() == [
        0.7866014554165304,
        -0.07899196725338697,
    ]
    assert uniform("mapping/decoder.final_layernorm.weight", 2, 5).tolist() == [
        -0.4533683289773762,
        -0.020617496222257614,
    ]
    for name, halves in INFO["formula_check"].items():
        assert np.float32(0.5 * uniform(name, 4, INFO["config"]["seed"])).tolist() == halves


@pytest.mark.parametrize("kind", ["backbone", "superres", "codec"])
def test_the_recorded_files_are_whole(kind: str) -> None:
    """A recorded number that was changed by accident would pass for the published one."""
    path = HERE / "A" / f"{kind}.npz"
    assert path.stat().st_size == INFO["bytes"][path.name]
    seen = hashlib.sha256()
    with np.load(path) as arrays:
        for name in sorted(arrays.files):
            one = arrays[name]
            for word in (name, str(one.dtype), str(one.shape)):
                seen.update(word.encode())
            seen.update(np.ascontiguousarray(one).tobytes())
    assert seen.hexdigest() == INFO["digest"][path.name]


@pytest.mark.parametrize("kind", ["backbone", "superres", "codec"])
def test_the_reference_gives_every_recorded_array(kind: str) -> None:
    """A reference that is wrong would make other sizes wrong with a good conscience."""
    weights, wanted = tensors_of(kind, "A"), recorded(kind)
    compare(referred(kind, "A", weights), wanted)
    if kind == "codec":
        assert len(weights) == INFO["codec"]["n_state"]
    said = {"backbone": "min_margin_free", "superres": "min_margin", "codec": "min_margin"}[kind]
    names = ("greedy_free_margin",) if kind == "backbone" else ("margins", "nn_margin")
    assert smallest_margin(wanted, names) == pytest.approx(INFO[kind][said])


def test_text_has_no_key_that_no_test_reads() -> None:
    """A kind of case that nobody looks at is a promise that nobody keeps."""
    cases = json.loads((HERE / "text.json").read_text(encoding="utf-8"))
    # each is read by tests/tokens/test_prompt.py
    assert cases.keys() == {"requests", "direct", "clean_lyrics", "clamp_prompt_ids"}
