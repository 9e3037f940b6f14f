"""Adapter folders: whole or not at all, for one model only, and readable by peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from khala import checkpoint
from khala.adapter import (
    PREFIX,
    WEIGHTS,
    Adapter,
    AdapterConfig,
    load_adapter,
    merge_adapters,
    save_adapter,
)
from khala.backbone import Backbone
from khala.checkpoint import digest, write_manifest
from khala.errors import CheckpointError, RequestError
from khala.nn.lora import LoraConfig, add_lora, lora_tensors
from khala.superres import SuperResolution

LORA = LoraConfig(rank=2, alpha=3.0)


def tuned(folder: Path, seed: int = 0, lora: LoraConfig = LORA) -> Backbone:
    """A backbone that has learned something, with the means of a song to hear it."""
    backbone = Backbone.from_pretrained(folder)
    add_lora(backbone, lora, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in lora_tensors(backbone).values():
            tensor.normal_(0.0, 0.3, generator=generator)
    return backbone


def base_of(model: Path, part: str = "backbone") -> str:
    return digest(model / part)


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """An adapter of the tiny model's backbone, in a run's folder."""
    folder = tmp_path / "run" / "adapter"
    config = AdapterConfig(part="backbone", base=base_of(tiny_model), lora=LORA)
    save_adapter(folder, tuned(tiny_model), config)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change an adapter's tensors and seal it again, as its maker could have."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    write_manifest(folder)


def reconfigure(folder: Path, **changes: object) -> None:
    """Change an adapter's config and seal it again."""
    document = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        place = document["config"]["lora"] if name in document["config"]["lora"] else document
        place = document["config"] if name in document["config"] else place
        place[name] = value
    (folder / "config.json").write_text(json.dumps(document))
    write_manifest(folder)


def merged(adapter: Adapter, model: Path) -> Backbone:
    backbone = Backbone.from_pretrained(model)
    adapter.merge_into(backbone, base=base_of(model))
    return backbone


def test_what_was_learned_is_what_is_merged(tiny_model: Path, adapter: Path) -> None:
    """A style must sound from its file as it did in its run."""
    tokens_BS = torch.arange(60)[None]
    with torch.no_grad():
        learned = tuned(tiny_model).eval()(tokens_BS)
        for wanted in (adapter, adapter.parent, f"{adapter}:1"):
            loaded = merged(load_adapter(wanted), tiny_model)(tokens_BS)
            torch.testing.assert_close(loaded, learned, rtol=1e-4, atol=1e-5)
        plain = Backbone.from_pretrained(tiny_model)(tokens_BS)
    assert float((learned - plain).abs().max()) > 0.05


def test_strength_scales_and_adapters_add_up(tiny_model: Path, adapter: Path) -> None:
    """Half a style twice is the style; a song must say which adapters it was made with."""
    halves = Backbone.from_pretrained(tiny_model)
    digests = {"backbone": base_of(tiny_model)}
    each = [load_adapter(f"{adapter}:0.5")] * 2
    used = merge_adapters(each, {"backbone": halves}, digests)
    whole = merged(load_adapter(adapter), tiny_model)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(halves.state_dict()[name], tensor)
    one = f"{digest(adapter)}@0.5"
    assert used == {"backbone.lora": f"{one}+{one}"}
    none = Backbone.from_pretrained(tiny_model)
    assert merge_adapters([load_adapter(f"{adapter}:0")], {"backbone": none}, digests) == {}
    for name, tensor in Backbone.from_pretrained(tiny_model).state_dict().items():
        assert torch.equal(none.state_dict()[name], tensor), name


def drop(tensors: dict[str, torch.Tensor]) -> None:
    tensors.pop(f"{PREFIX}layers.0.attn.q_proj.lora_A.weight")


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{PREFIX}layers.9.attn.q_proj.lora_A.weight"] = torch.zeros(2, 16)


def add_foreign(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = torch.zeros(2, 16)


def bend(tensors: dict[str, torch.Tensor]) -> None:
    name = f"{PREFIX}layers.0.mlp.up_proj.lora_B.weight"
    tensors[name] = tensors[name].T.contiguous()


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{PREFIX}layers.0.mlp.up_proj.lora_B.weight"][0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop, r"q_proj\.lora_A is missing"),
        (add, r"layers\.9\.attn\.q_proj\.lora_A is not part"),
        (add_foreign, r"lm_head\.weight is not part"),
        (bend, r"up_proj\.lora_B has shape \(2, 16\).*\(16, 2\)"),
        (poison, "not of finite numbers"),
    ],
)
def test_every_wrong_tensor_is_named(
    tiny_model: Path, adapter: Path, change: Callable[..., None], words: str
) -> None:
    """Half an adapter, or one for another shape, would be heard as a broken song."""
    rewrite(adapter, change)
    with pytest.raises(CheckpointError, match=words) as info:
        merged(load_adapter(adapter), tiny_model)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 3}, "rank 3"),
        ({"rank": 99}, "at most"),
        ({"rank": 0}, r"lora\.rank"),
        ({"alpha": -1.0}, r"lora\.alpha"),
        ({"targets": ["q_proj"]}, "is not part of this adapter"),
        ({"targets": ["lm_head"]}, r"lora\.targets"),
        ({"part": "codec"}, "backbone, superres"),
        ({"base": "nano"}, "sha256"),
        ({"base": "0" * 64}, "trained from another backbone"),
        ({"kind": "backbone"}, "holds a 'backbone' model"),
        ({"format": 2}, "format 2"),
    ],
)
def test_every_wrong_config_is_named(
    tiny_model: Path, adapter: Path, changes: dict[str, object], words: str
) -> None:
    """A config that does not say what the tensors are must never be believed."""
    reconfigure(adapter, **changes)
    with pytest.raises(CheckpointError, match=words) as info:
        merged(load_adapter(adapter), tiny_model)
    assert "\n" not in str(info.value)


def test_an_adapter_belongs_to_one_model(
    tiny_model: Path, adapter: Path, make_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """On another model the change points nowhere: the song would be noise without a word."""
    other = make_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="trained from another backbone"):
        merged(load_adapter(adapter), other)
    reconfigure(adapter, part="superres")
    models = {
        "backbone": Backbone.from_pretrained(tiny_model),
        "superres": SuperResolution.from_pretrained(tiny_model),
    }
    digests = {part: base_of(tiny_model, part) for part in models}
    with pytest.raises(CheckpointError, match="trained from another superres"):
        merge_adapters([load_adapter(adapter)], models, digests)


@pytest.mark.parametrize("number", ["nan", "inf", "-0.1", "2.01", "1e9"])
def test_strengths_that_are_refused(adapter: Path, number: str) -> None:
    """A strength that means nothing is answered with those that do."""
    with pytest.raises(RequestError, match="from 0 to 2"):
        load_adapter(f"{adapter}:{number}")


def test_folders_that_hold_none(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    """A wrong path is answered with what a right one is."""
    for wrong in (tmp_path / "none", f"{adapter}:loud", tmp_path, tiny_model, f"{adapter}x:0.5"):
        with pytest.raises(CheckpointError, match="no adapter in"):
            load_adapter(wrong)
    odd = adapter.rename(tmp_path / "mine:0.5")
    assert load_adapter(odd).strength == 1.0
    assert load_adapter(f"{odd}:0.25").strength == 0.25


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "manifest.json"])
def test_one_flipped_byte(tiny_model: Path, adapter: Path, name: str) -> None:
    """A damaged download is named."""
    data = bytearray((adapter / name).read_bytes())
    data[len(data) // 2] ^= 1
    (adapter / name).write_bytes(data)
    with pytest.raises(CheckpointError):
        merged(load_adapter(adapter), tiny_model)


def test_written_whole_or_not_at_all(
    tiny_model: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must leave the adapter that was there, not half of the next."""
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(checkpoint, "save_tensors", full)
    config = AdapterConfig(part="backbone", base=base_of(tiny_model), lora=LORA)
    with pytest.raises(OSError, match="no space"):
        save_adapter(adapter, tuned(tiny_model, seed=5), config)
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before
    assert [path.name for path in adapter.parent.iterdir()] == ["adapter"]


def test_peft_reads_it(tiny_model: Path, adapter: Path) -> None:
    """Whoever has peft's tools can use an adapter with them, on the same plain module."""
    peft = pytest.importorskip("peft")
    tokens_BS = torch.arange(60)[None]
    ours = merged(load_adapter(adapter), tiny_model)
    config = peft.PeftConfig.from_pretrained(adapter)
    module = peft.inject_adapter_in_model(config, Backbone.from_pretrained(tiny_model))
    tensors = {
        name.removeprefix(PREFIX): tensor for name, tensor in load_file(adapter / WEIGHTS).items()
    }
    result = peft.set_peft_model_state_dict(module, tensors)
    assert not result.unexpected_keys
    assert not [name for name in result.missing_keys if "lora" in name]
    wrapped = peft.PeftModel.from_pretrained(Backbone.from_pretrained(tiny_model), adapter)
    with torch.no_grad():
        wanted = ours(tokens_BS)
        for theirs in (module.eval(), wrapped.eval()):
            torch.testing.assert_close(theirs(tokens_BS), wanted, rtol=0.0, atol=1e-5)
            long_BS = torch.arange(8).repeat(4)[None, :20]
            torch.testing.assert_close(theirs(long_BS), ours(long_BS), rtol=0.0, atol=1e-5)
        plain = Backbone.from_pretrained(tiny_model)(tokens_BS)
    assert float((wanted - plain).abs().max()) > 0.05
