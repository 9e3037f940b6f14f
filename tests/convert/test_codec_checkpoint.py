"""The codec's training checkpoint becomes our codec."""

from __future__ import annotations

import argparse
import datetime
import functools
import signal
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from published_folders import CODEC, decoder_only, lightning_codec

from khala.codec import Codec, CodecConfig, ConvConfig
from khala.convert.codec import codec_config, codec_tensors, split_codec
from khala.convert.conversion import convert
from khala.convert.pickles import Record
from khala.convert.published import LIGHTNING, look
from khala.convert.torch_file import read_torch_file
from khala.errors import CheckpointError, ConfigError


def write(folder: Path, state: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(state or lightning_codec(), folder / "dac_rvq_1.ckpt")
    return folder


def test_the_codec_alone_is_converted_and_codes_the_same(tmp_path: Path) -> None:
    """A codebook in another's place would play noise from good codes."""
    source = look(write(tmp_path / "in"))
    assert source.missing == ("backbone", "superres", "tokenizer.json")
    part = source.parts["codec"]
    assert part.config == CODEC
    assert len(part.skipped) == 1 + 64 * 4
    convert(source, tmp_path / "out", dtype=torch.float16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = Codec(CODEC).eval()
    loaded = Codec.from_pretrained(tmp_path / "out")
    for name, tensor in ours.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    wave = torch.randn(1, 2, 3 * 2048, generator=torch.Generator().manual_seed(1))
    codes = loaded.encode(wave)
    assert torch.equal(codes, ours.encode(wave))
    assert torch.equal(loaded.decode(codes), ours.decode(codes))


@pytest.mark.parametrize("copies", [False, True])
def test_a_decoder_alone_plays_songs_and_says_that_it_cannot_encode(
    tmp_path: Path, copies: bool
) -> None:
    """The converted copy has no encoder: its songs must sound the same, and no code be invented."""
    (tmp_path / "in").mkdir()
    torch.save(decoder_only(copies=copies), tmp_path / "in" / "decoder_weights.pt")
    part = look(tmp_path / "in").parts["codec"]
    assert any("recordings cannot be encoded" in note for note in part.notes)
    convert(look(tmp_path / "in"), tmp_path / "out")
    convert(look(write(tmp_path / "whole")), tmp_path / "whole_out")
    bare = Codec.from_pretrained(tmp_path / "out")
    whole = Codec.from_pretrained(tmp_path / "whole_out")
    assert bare.state_dict().keys() == {
        name for name in whole.state_dict() if not name.startswith("encoder.")
    }
    codes = torch.randint(1024, (1, 64, 5), generator=torch.Generator().manual_seed(2))
    assert torch.allclose(bare.decode(codes), whole.decode(codes), atol=1e-6)
    for use in (lambda: bare.encode(torch.zeros(1, 2, 4096)), bare.codes_digest):
        with pytest.raises(CheckpointError, match=r"no encoder.*cannot encode recordings"):
            use()


def test_a_config_with_half_an_encoder() -> None:
    """Strides without filters would be an encoder that nobody can build."""
    for conv in ({"encoder_filters": None}, {"encoder_strides": ()}):
        with pytest.raises(ConfigError, match="both, or None and no strides"):
            CodecConfig(conv=ConvConfig(**conv))


def test_the_released_codec_has_558_entries() -> None:
    """A list that is short by one tensor would be a codec short by one."""
    with torch.device("meta"):
        state = Codec(CodecConfig(conv=ConvConfig())).state_dict()
    assert len(state) - 1 + 64 * 5 == 558


def test_a_copy_of_a_codebook_that_differs(tmp_path: Path) -> None:
    """Of two different codebooks for one level nobody can say which the codes are from."""
    state = lightning_codec()
    state["state_dict"]["generator.quantizer.embed_7"] = torch.zeros(1024, 4)
    with pytest.raises(CheckpointError, match=r"embed_7 and .*vq_layer_7.* must be equal"):
        look(write(tmp_path, state))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("encoder.block.2.block.3.alpha", None, r"block\.3\.alpha \(1, 4, 1\) is missing"),
        ("decoder.model.6.bias", (3,), r"decoder\.model\.6\.bias is .*\(3,\), not \(2,\)"),
        ("decoder.model.9.bias", (2,), r"decoder\.model\.9\.bias \(2,\) is not part"),
        ("encoder.block.0.weight_v", None, r"encoder\.block\.0\.weight_v is missing"),
        ("quantizer.vq_layer_9._codebook.embed", None, r"vq_layer_63|vq_layer_9"),
        ("quantizer.vq_layer_3._codebook.embed", (1024, 5), r"vq_layer_3.*\(1024, 5\)"),
        ("encoder.block.1.block.4.weight_v", (4, 2, 10), "holds no codec of the published kind"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    """Each deviation is one line that names the tensor."""
    state = lightning_codec()
    if shape is None:
        del state["state_dict"][f"generator.{name}"]
    else:
        state["state_dict"][f"generator.{name}"] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=message):
        look(write(tmp_path, state))


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, name: str, base: type = object) -> type:
    """A class under another library's name, which need not be installed to write what it writes."""
    made = type(name, (base,), {"__module__": module})
    words = module.split(".")
    for count in range(1, len(words) + 1):
        package = ".".join(words[:count])
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    setattr(sys.modules[module], name, made)
    return made


def test_what_lightning_keeps_beside_weights_is_read_as_plain_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings and callbacks of somebody's training must not bar the way to its weights."""
    config = stand_in(monkeypatch, "omegaconf.dictconfig", "DictConfig")()
    config.__dict__ |= {"_content": {"filters": 128}, "_parent": None, "ref": Any, "key": int}
    listed = stand_in(monkeypatch, "omegaconf.listconfig", "ListConfig", list)([1, 2])
    attributes = stand_in(monkeypatch, "lightning_fabric.utilities.data", "AttributeDict", dict)(
        config=config, many={"a": listed}, dtype=torch.float16, size=np.float64(0.5)
    )
    state = lightning_codec()
    state |= {
        "hyper_parameters": attributes,
        "hparams_type": type(config),
        "callbacks": {
            "ModelCheckpoint": {
                "dirpath": PurePosixPath("/runs/x"),
                "best_model_score": torch.tensor(0.5),
                "kept": defaultdict(list, a=[1]),
                "last": deque([1, 2], maxlen=2),
                "counts": Counter("aab"),
                "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
                "types": [dict, str, object, bool],
            }
        },
        "args": argparse.Namespace(exit_signal=signal.SIGTERM, order=OrderedDict(a=1)),
        "schedule": functools.partial(argparse.Namespace, a=1),
    }
    part = look(write(tmp_path, state)).parts["codec"]
    assert part.config == CODEC
    found = read_torch_file(tmp_path / "dac_rvq_1.ckpt", lazy=True, records=LIGHTNING)
    kept = found["hyper_parameters"]
    assert isinstance(kept, Record)
    values = dict(zip(kept.items[::2], kept.items[1::2], strict=True))
    assert values["config"].state["_content"] == {"filters": 128}
    assert values["many"]["a"].items == [1, 2]


class Stranger:
    """A class of somebody's training program."""


def test_strange_classes_in_the_checkpoint_are_refused(tmp_path: Path) -> None:
    """A checkpoint that wants to run its own classes is refused by name, and nothing is run."""
    state = lightning_codec()
    state["callbacks"] = Stranger()
    with pytest.raises(CheckpointError, match=r"test_codec_checkpoint\.Stranger"):
        look(write(tmp_path, state))


def test_an_empty_source_has_no_codec() -> None:
    """Files without one level are not a codec of zero levels."""
    with pytest.raises(CheckpointError, match="missing"):
        codec_config({}, source="here")
    tensors, skipped = split_codec({})
    assert not tensors
    assert not skipped
    with pytest.raises(CheckpointError, match="missing"):
        codec_tensors({}, CODEC, source="here")
