"""Adapters: a folder with a low-rank change of a backbone or of a super-resolution model.

    adapter/
    |-- config.json                 {"kind": "adapter", "format": 1, "config": {part, base, lora}}
    |-- adapter_model.safetensors   lora_A and lora_B of every linear, named as peft names them
    |-- adapter_config.json         the same for peft; never read here
    `-- manifest.json               sha256 of the three, as in every model folder

An adapter belongs to the very model that it was trained from: ``base`` is the digest of that
model's folder, and no other is changed by it. When a model is loaded, the change is added to the
weights (`khala.nn.lora`), so songs cost what they cost without it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from khala import checkpoint
from khala.errors import CheckpointError, ConfigError, RequestError
from khala.nn.lora import LoraConfig, lora_shapes, lora_tensors, merge_lora

__all__ = ["Adapter", "AdapterConfig", "digest_name", "load_adapter", "merge_adapters",
           "save_adapter", "shown_adapters"]  # fmt: skip

PARTS = ("backbone", "superres")
"""What an adapter may change."""

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before the names of a model's own modules."""

MAX_STRENGTH = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """What an adapter changes."""

    part: str
    """"backbone" or "superres"."""

    base: str
    """Digest of the folder of the model that it was trained from."""

    lora: LoraConfig
    """The shape of the change."""

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ConfigError(f"part must be one of {', '.join(PARTS)}, not {self.part!r}")
        if not re.fullmatch("[0-9a-f]{64}", self.base):
            raise ConfigError(f"base must be a sha256, not {self.base!r}")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A verified adapter and how strongly it is wanted."""

    folder: Path
    """Where it was read from."""

    config: AdapterConfig
    """What it changes."""

    tensors: dict[str, Tensor]
    """By the names of `khala.nn.lora.lora_shapes`."""

    digest: str
    """sha256 of its manifest."""

    strength: float = 1.0
    """1 as it was trained, 0 not at all, up to 2."""

    def merge_into(self, model: nn.Module, *, base: str) -> None:
        """Change the weights of the model that it was trained from, in place.

        Args:
            model: the part that ``config.part`` names.
            base: digest of the model's folder.

        Raises:
            CheckpointError: it was trained from another model, or a tensor is missing, extra,
                misshapen or not finite.
        """
        part = self.config.part
        if base != self.config.base:
            raise CheckpointError(
                f"{self.folder} was trained from another {part} (digest {self.config.base[:16]}) "
                f"than this model's (digest {base[:16]}): give the model it was trained from with "
                "--model, or train it again from this one"
            )
        try:
            wanted = lora_shapes(model, self.config.lora)
        except ConfigError as error:
            raise CheckpointError(f"{self.folder} does not fit its {part}: {error}") from error
        for name in sorted(wanted.keys() - self.tensors.keys()):
            raise CheckpointError(f"{self.folder}: tensor {name} is missing")
        for name in sorted(self.tensors.keys() - wanted.keys()):
            raise CheckpointError(f"{self.folder}: tensor {name} is not part of this adapter")
        for name, shape in wanted.items():
            tensor = self.tensors[name]
            if tuple(tensor.shape) != shape:
                raise CheckpointError(
                    f"{self.folder}: tensor {name} has shape {tuple(tensor.shape)}, an adapter of "
                    f"rank {self.config.lora.rank} for this {part} has {shape}"
                )
            if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"{self.folder}: tensor {name} is not of finite numbers")
        merge_lora(model, self.tensors, self.config.lora, strength=self.strength)


def save_adapter(folder: Path, model: nn.Module, config: AdapterConfig) -> str:
    """Write what a model with changes has learned, whole or not at all; return the digest.

    Args:
        folder: where it goes; an existing adapter there is replaced.
        model: after `khala.nn.lora.add_lora`.
        config: what the folder says of it.
    """
    tensors = {f"{PREFIX}{name}.weight": tensor for name, tensor in lora_tensors(model).items()}

    def write(temporary: Path) -> None:
        plain = checkpoint.config_to_dict(config)
        document = {"kind": "adapter", "format": checkpoint.FORMAT, "config": plain}
        (temporary / "config.json").write_text(json.dumps(document, indent=2) + "\n")
        for_peft = json.dumps(_peft_config(config), indent=2) + "\n"
        (temporary / "adapter_config.json").write_text(for_peft)
        checkpoint.save_tensors(temporary / WEIGHTS, tensors)

    return checkpoint.write_folder(folder, write)


def load_adapter(wanted: str | Path) -> Adapter:
    """Read and verify an adapter.

    Args:
        wanted: FOLDER or FOLDER:STRENGTH, where the folder is an adapter's or its run's.

    Raises:
        RequestError: the strength is not a number from 0 to 2.
        CheckpointError: no such folder, not an adapter, or damaged.
    """
    folder, strength = _read_choice(str(wanted))
    config = checkpoint.load_config(folder, "adapter", AdapterConfig)
    tensors = {}
    for name, tensor in checkpoint.load_tensors(folder, WEIGHTS).items():
        if not (name.startswith(PREFIX) and name.endswith(".weight")):
            raise CheckpointError(f"{folder}: tensor {name} is not part of an adapter")
        tensors[name.removeprefix(PREFIX).removesuffix(".weight")] = tensor
    return Adapter(
        folder=folder,
        config=config,
        tensors=tensors,
        digest=checkpoint.digest(folder),
        strength=strength,
    )


def merge_adapters(
    adapters: Sequence[Adapter], models: Mapping[str, nn.Module], digests: Mapping[str, str]
) -> dict[str, str]:
    """Add adapters to the parts of a model, in their order; return what a song remembers of it.

    Args:
        adapters: several for one part add up.
        models: by the name of the part.
        digests: of the parts' folders, by the same names.

    Returns:
        "DIGEST@STRENGTH" of every adapter with a strength above 0, joined by "+", by
        `digest_name` of its part.

    Raises:
        CheckpointError: an adapter does not belong to these models.
    """
    used: dict[str, str] = {}
    for adapter in adapters:
        part = adapter.config.part
        adapter.merge_into(models[part], base=digests[part])
        if adapter.strength:
            name, value = digest_name(part), f"{adapter.digest}@{adapter.strength!r}"
            used[name] = f"{used[name]}+{value}" if name in used else value
    return used


def digest_name(part: str) -> str:
    """Return the name under which a song keeps the adapters of a part, beside the part's own."""
    return f"{part}.lora"


def shown_adapters(value: str) -> str:
    """Return what `merge_adapters` says of a part in words, with digests cut short."""
    each = (one.partition("@") for one in value.split("+"))
    return " and ".join(f"{digest[:16]} at strength {strength}" for digest, _, strength in each)


def _read_choice(text: str) -> tuple[Path, float]:
    """Split FOLDER:STRENGTH; a folder whose name holds a colon is taken as it is."""
    name, colon, number = text.rpartition(":")
    strength = 1.0
    if colon and not Path(text).exists():
        try:
            strength = float(number)
        except ValueError:
            name = text
    else:
        name = text
    if not 0.0 <= strength <= MAX_STRENGTH:
        raise RequestError(
            f"--lora {text!r}: the strength is {number}, a number from 0 to {MAX_STRENGTH:g} is "
            "allowed"
        )
    for folder in (Path(name), Path(name) / "adapter"):
        if (folder / "config.json").is_file() and (folder / WEIGHTS).is_file():
            return folder, strength
    raise CheckpointError(
        f"no adapter in {name!r}: give the folder that khala train wrote one to (RUN/adapter), and "
        "after a colon how strongly it is wanted, as in RUN/adapter:0.7"
    )


def _peft_config(config: AdapterConfig) -> dict[str, Any]:
    """Return the same in peft's words."""
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": f"khala {config.part} {config.base}",
        "r": config.lora.rank,
        "lora_alpha": config.lora.alpha,
        "lora_dropout": config.lora.dropout,
        "target_modules": list(config.lora.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "task_type": None,
    }
