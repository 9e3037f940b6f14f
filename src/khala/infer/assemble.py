"""Three trained parts and their tokenizer become one model folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from khala import checkpoint
from khala.adapter import Adapter, load_adapter, merge_adapters
from khala.backbone import Backbone, BackboneConfig
from khala.codec import CodecConfig
from khala.errors import CheckpointError, ConfigError
from khala.infer.pipeline import Khala
from khala.superres import SuperResConfig, SuperResolution

__all__ = ["assemble_model"]


def assemble_model(
    *,
    codec: Path,
    backbone: Path,
    superres: Path,
    out: Path,
    compact: bool = False,
    lora: Sequence[str | Path] = (),
) -> str:
    """Copy verified parts into ``out`` as a whole model, or not at all; return its digest.

    Args:
        codec: a model folder with ``codec/``, or that folder itself.
        backbone: the same with ``backbone/``; ``tokenizer.json`` stands beside it.
        superres: the same with ``superres/``.
        out: must not exist yet.
        compact: store the matrices of backbone and super-resolution as int8 rows, a quarter of
            float32. The codec is always copied as it is: codes belong to its exact numbers.
        lora: adapters to add to the weights for good, each FOLDER or FOLDER:STRENGTH.

    Raises:
        CheckpointError: a part or an adapter is missing or damaged, or they do not fit.
        ConfigError: the parts do not speak the same language, or ``out`` exists.
    """
    parts = {
        name: checkpoint.resolve_part(path, name)
        for name, path in (("codec", codec), ("backbone", backbone), ("superres", superres))
    }
    adapters = [load_adapter(wanted) for wanted in lora]
    _check_together(parts)
    tokenizer = _tokenizer_beside(parts["backbone"])
    if out.exists():
        raise ConfigError(f"{out} is there already: give a folder that is not")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".khala-", dir=out.parent))
    try:
        for name, folder in parts.items():
            changes = [adapter for adapter in adapters if adapter.config.part == name]
            if changes:
                _changed(name, folder, changes, temporary / name, compact=compact)
                continue
            if compact and name != "codec":
                _compacted(name, folder, temporary / name)
                continue
            (temporary / name).mkdir()
            for file in ("config.json", "model.safetensors"):
                shutil.copyfile(checkpoint.verify(folder, file), temporary / name / file)
            shutil.copyfile(folder / "manifest.json", temporary / name / "manifest.json")
        shutil.copyfile(tokenizer, temporary / "tokenizer.json")
        digest = checkpoint.write_manifest(temporary)
        Khala.from_pretrained(temporary)
        temporary.chmod(0o755)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return digest


def _changed(
    name: str, folder: Path, adapters: Sequence[Adapter], out: Path, *, compact: bool
) -> None:
    """Write one of the two language models with adapters in its weights."""
    model = (Backbone if name == "backbone" else SuperResolution).from_pretrained(folder)
    merge_adapters(adapters, {name: model}, {name: checkpoint.digest(folder)})
    model.save(out, dtype=torch.int8 if compact else torch.float32)


def _compacted(name: str, folder: Path, out: Path) -> None:
    """Write one of the two language models with int8 matrices."""
    config: BackboneConfig | SuperResConfig
    if name == "backbone":
        config = checkpoint.load_config(folder, name, BackboneConfig)
    else:
        config = checkpoint.load_config(folder, name, SuperResConfig)
    tensors = checkpoint.stored(checkpoint.load_tensors(folder), torch.int8)
    checkpoint.save_model(out, kind=name, config=config, tensors=tensors)


def _tokenizer_beside(backbone: Path) -> Path:
    for folder in (backbone, backbone.parent):
        if (folder / "tokenizer.json").is_file():
            return folder / "tokenizer.json"
    raise CheckpointError(f"{backbone} has no tokenizer.json beside it")


def _check_together(parts: dict[str, Path]) -> None:
    """One alphabet for both models, and the codec's codes in it."""
    codec = checkpoint.load_config(parts["codec"], "codec", CodecConfig)
    backbone = checkpoint.load_config(parts["backbone"], "backbone", BackboneConfig)
    superres = checkpoint.load_config(parts["superres"], "superres", SuperResConfig)
    if backbone.layout != superres.layout:
        raise ConfigError("backbone and super-resolution have different alphabets")
    wanted = (superres.layout.num_levels, superres.layout.codebook_size)
    found = (codec.quantizer.num_levels, codec.quantizer.codebook_size)
    if found != wanted:
        raise ConfigError(
            f"the codec has {found[0]} levels of {found[1]} codes, the models {wanted[0]} of "
            f"{wanted[1]}"
        )
