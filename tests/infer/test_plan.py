"""What fits is known before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from khala import Khala
from khala.backbone import BackboneConfig
from khala.codec import CodecConfig, ConvConfig
from khala.errors import CheckpointError
from khala.infer.plan import ModelSize, decide, longest_that_fits, needs, song_needs
from khala.machine import Machine
from khala.nn import TrunkConfig, compiled
from khala.nn.cache import new_cache
from khala.superres import SuperResConfig
from khala.tokens import published_layout

TRUNK = TrunkConfig(
    width=2048, num_layers=24, num_heads=32, num_kv_heads=8, head_width=64, ffn_width=5632
)
PUBLISHED = ModelSize(
    backbone=BackboneConfig(trunk=TRUNK, layout=published_layout(), max_positions=16_384),
    superres=SuperResConfig(trunk=TRUNK, layout=published_layout(), max_positions=8_192),
    codec=CodecConfig(conv=ConvConfig()),
    numbers={"backbone": 1_616_922_624, "superres": 1_876_969_472, "codec": 186_099_204},
    stored={"backbone": "bfloat16", "superres": "bfloat16", "codec": "float32"},
    largest={"backbone": 534_249_472, "superres": 794_296_320, "codec": 301_989_888},
    piece_frames=150,
)
GB = 1_000_000_000


def on(kind: str, free: int | None, *, bfloat16: bool = True) -> Machine:
    return Machine(device=kind, free_bytes=free, has_bfloat16=bfloat16)


HERE = on("cpu", None)


def test_the_weights_are_counted_whole(tiny_model: Path) -> None:
    """A tensor that was left out would be missing in the promise."""
    size, model = ModelSize.of(tiny_model), Khala.from_pretrained(tiny_model)
    for part in ("backbone", "superres"):
        tensors = model.models.part(part).state_dict().values()
        assert size.numbers[part] == sum(one.numel() for one in tensors)
        assert needs(size, HERE, 1.0, "float32").weights[part] == sum(one.nbytes for one in tensors)
    assert size.stored["codec"] == "float32"


def test_keys_and_values_grow_with_the_song() -> None:
    """A long song needs more than its weights: 98,304 bytes for every frame of it in bfloat16."""
    short, long = (needs(PUBLISHED, HERE, seconds, "bfloat16") for seconds in (60, 300))
    frames = [-(-seconds * 105 * 44_100 // 100 // 2048) for seconds in (60, 300)]
    caches = [
        new_cache(TRUNK, batch=1, positions=2, device=torch.device("meta"), dtype=torch.bfloat16)
    ]
    per_frame = sum(one.nbytes for cache in caches for one in (*cache.keys, *cache.values))
    assert per_frame == 98_304
    assert long.backbone - short.backbone == per_frame * (frames[1] - frames[0])
    assert needs(PUBLISHED, HERE, 60, "bfloat16", guided=True).backbone > short.backbone


def test_casting_holds_a_tensor_twice() -> None:
    """The largest table is there in both kinds while it is cast: that is when memory ends."""
    cast = needs(PUBLISHED, HERE, 1.5, "float32")
    assert cast.superres >= 4 * 1_876_969_472 + 794_296_320


def test_turns_need_less() -> None:
    """Who cannot hold three models can hold the largest."""
    found = needs(PUBLISHED, HERE, 180, "bfloat16")
    assert found.in_turns < found.together
    assert found.together > 2 * (1_616_922_624 + 1_876_969_472) + 4 * 186_099_204


@pytest.mark.parametrize(
    ("machine", "dtype", "turns"),
    [
        (on("cuda", 24 * GB), "bfloat16", False),
        (on("cuda", 8 * GB), "bfloat16", True),
        (on("cuda", 24 * GB, bfloat16=False), "float16", False),
        (on("mps", 32 * GB), "float16", False),
        (on("mps", 8 * GB), "float16", True),
        (on("cpu", 6 * GB), "bfloat16", False),  # mapped: the system takes turns itself
        (on("cpu", 64 * GB, bfloat16=False), "float32", False),
        (on("cpu", 12 * GB, bfloat16=False), "bfloat16", False),
        (on("cpu", None), "bfloat16", False),
    ],
)
def test_decisions_for_the_published_weights(machine: Machine, dtype: str, turns: bool) -> None:
    """Every kind of computer gets what runs there, and no one must know which."""
    plan = decide(PUBLISHED, machine, None, 180.0)
    assert (plan.dtype, plan.turns) == (dtype, turns)


def test_asking_decides() -> None:
    """Who asks for float32 gets it, in turns where it does not fit at once."""
    plan = decide(PUBLISHED, on("cpu", 12 * GB), "float32", 180.0)
    assert (plan.dtype, plan.turns) == ("float32", True)


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_sketches_of_small_models_are_the_same_everywhere(kind: str) -> None:
    """The bundled model writes the same tune and words on every computer; detail may be faster."""
    small = replace(PUBLISHED, stored=dict.fromkeys(PUBLISHED.stored, "int8"))
    fast = decide(small, on(kind, 64 * GB), None, 180.0)
    slow = decide(small, on(kind, 64 * GB, bfloat16=False), None, 180.0)
    assert (fast.dtype, slow.dtype) == ("mixed", "float32")
    assert fast.stored_as == slow.stored_as == torch.float32
    assert (fast.products, slow.products) == (torch.bfloat16, None)
    asked = decide(small, on(kind, 64 * GB), "float32", 180.0)
    assert asked.products is None


@pytest.mark.parametrize("has_compiler", [True, False])
@pytest.mark.parametrize("bfloat16", [True, False])
def test_small_backbones_in_8_bits_are_read_so(
    monkeypatch: pytest.MonkeyPatch, has_compiler: bool, bfloat16: bool
) -> None:
    """Where steps are compiled, which loses nothing; a laptop without bfloat16 is not slowed."""
    monkeypatch.setattr(compiled, "has_compiler", lambda: has_compiler)
    trunk = TrunkConfig(
        width=256, num_layers=8, num_heads=4, num_kv_heads=2, head_width=64, ffn_width=704
    )
    backbone = BackboneConfig(trunk=trunk, layout=published_layout(), max_positions=16_384)
    stored = dict.fromkeys(PUBLISHED.stored, "int8")
    superres = SuperResConfig(trunk=trunk, layout=published_layout(), max_positions=8_192)
    small = replace(PUBLISHED, stored=stored, backbone=backbone, superres=superres)
    here = on("cpu", 64 * GB, bfloat16=bfloat16)
    found = decide(small, here, None, 180.0)
    plain = "mixed" if bfloat16 else "float32"
    assert found.dtype == ("int8" if has_compiler else plain)
    assert found.products == (torch.bfloat16 if bfloat16 else None)
    assert found.stored_as == torch.float32
    assert decide(small, on("cuda", 64 * GB), None, 180.0).dtype == "mixed"
    exact = replace(small, stored={**stored, "backbone": "float32"})
    assert decide(exact, here, None, 180.0).dtype == plain
    songs = [
        song_needs(small, num_prompt=100, num_frames=1_000, dtype=dtype, kind=kind, guided=True)
        for kind, dtype in (("cpu", "int8"), ("cpu", plain), ("cuda", "int8"))
    ]
    exactly = 2 * 2 * 8 * 2 * 2_100 * 64 * 4
    assert songs[1].held == songs[2].held == exactly
    ratio = (64 * 2 + 4) / (64 * 4) if has_compiler else 1.0
    assert songs[0].held == round(exactly * ratio)


def test_the_longest_song_that_fits() -> None:
    """A promise of one second more would break on that second."""
    found = longest_that_fits(PUBLISHED, on("cpu", 6 * GB), "bfloat16", in_turns=True)
    assert found == 361, "all that the models' positions allow"
    tight = needs(PUBLISHED, HERE, 100, "bfloat16").in_turns
    for free, longest in ((tight, (100, 101)), (3 * GB, (0,)), (None, (361,))):
        machine = on("cpu", free)
        assert longest_that_fits(PUBLISHED, machine, "bfloat16", in_turns=True) in longest


def test_a_folder_without_weights(tmp_path: Path) -> None:
    """A plan for half a download would promise what cannot be made."""
    with pytest.raises(CheckpointError, match="no codec/"):
        ModelSize.of(tmp_path)
