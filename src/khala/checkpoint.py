"""Model folders: config.json + model.safetensors + a sha256 manifest, strict both ways.

    folder/
    |-- config.json          {"kind": "codec", "format": 1, "config": {...}}
    |-- model.safetensors    every tensor, no pickle anywhere
    `-- manifest.json        {"files": {name: {"sha256", "bytes"}}}

safetensors notices a truncated file but not a flipped bit in its data, so nothing is read before
its sha256 agrees with the manifest. Config decoding is strict: a missing or unknown field is an
error that names it. Everything is written to a temporary folder and renamed into place.

Tensors are stored in float32, bfloat16 or int8. In int8, a matrix has one float32 scale for each
row of its last dimension, in a second tensor with ".scale" added to its name; it is read back as
float32. Vectors and other small tensors stay float32.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from khala import hub
from khala.errors import CheckpointError, ConfigError

__all__ = [
    "config_from_dict",
    "config_to_dict",
    "digest",
    "kind_of",
    "load_config",
    "load_into",
    "load_module",
    "load_tensors",
    "release",
    "resolve_model",
    "resolve_part",
    "save_model",
    "save_tensors",
    "sha256_file",
    "stored",
    "stored_tensors",
    "write_folder",
    "write_manifest",
]

FORMAT = 1
SCALE = ".scale"
SMALL_BYTES = 1 << 20
"""Tensors below this are copied out of their file, to lie where arithmetic likes them to lie."""

MAPPED_BYTES = 64 << 20
"""Read through one mapping of a file; pages that were only read to be cast go when it does."""

KINDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8"}

MAX_CONFIG_BYTES = 1 << 20
C = TypeVar("C")


def save_model(
    folder: Path, *, kind: str, config: object, tensors: dict[str, Tensor], format: int = FORMAT
) -> str:
    """Write a model folder as a whole or not at all; return its digest.

    Args:
        folder: where it goes; an existing model folder there is replaced.
        kind: "codec", "backbone", "superres", "recogniser", "tagger": checked when it is read back.
        config: a config dataclass, stored beside the weights: inference reads this, not a recipe.
        tensors: stored in the dtype they have.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left half-written.
    """

    def write(temporary: Path) -> None:
        document = {"kind": kind, "format": format, "config": config_to_dict(config)}
        (temporary / "config.json").write_text(json.dumps(document, indent=2) + "\n")
        save_tensors(temporary / "model.safetensors", tensors)

    return write_folder(folder, write)


def write_folder(folder: Path, write: Callable[[Path], None]) -> str:
    """Let ``write`` fill a folder, seal it with a manifest, and put it in place as a whole.

    An existing folder there is replaced. Nothing is left half-written, whatever is raised.
    """
    folder = Path(folder).resolve()  # a link stays a link
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        write(temporary)
        value = write_manifest(temporary)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            folder.rename(old / "model")
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return value


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one file of tensors, in the dtype they have."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path)


def stored(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return tensors as they go to disk: cast, or as int8 rows with their scales.

    Rounding to int8 moves a number by at most 1/254 of the largest in its row.
    """
    if dtype != torch.int8:
        return {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
    packed = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.ndim < 2 or tensor.shape[-1] < 8:
            packed[name] = tensor
            continue
        values = tensor.float()
        scale = values.abs().amax(dim=-1, keepdim=True).clamp_min(1e-30) / 127
        packed[name] = torch.round(values / scale).to(torch.int8)
        packed[name + SCALE] = scale
    return packed


def write_manifest(folder: Path) -> str:
    """Hash every file of ``folder`` into its manifest.json; return the folder's digest."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != "manifest.json":
            files[path.name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps({"files": files}, indent=2) + "\n")
    return digest(folder)


def digest(folder: Path) -> str:
    """Return one sha256 for a model folder: that of its manifest's canonical JSON."""
    manifest = _read_json(Path(folder) / "manifest.json")
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def verify(folder: Path, name: str) -> Path:
    """Return the path of one file of a model folder after its sha256 has been checked.

    Raises:
        CheckpointError: the file is missing, not in the manifest, or differs from it.
    """
    folder = Path(folder)
    files = _read_json(folder / "manifest.json").get("files")
    if not isinstance(files, dict) or name not in files:
        raise CheckpointError(f"{folder / 'manifest.json'} does not list {name}")
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"model file is missing: {path}")
    found = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    if found != files[name]:
        raise CheckpointError(
            f"model file is damaged: {path} does not have the sha256 and size of its manifest"
        )
    return path


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file, read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_config(folder: Path, kind: str, cls: type[C]) -> C:
    """Read the config of a model folder as ``cls``, strictly.

    Raises:
        CheckpointError: no such folder, another kind of model, or a field missing or unknown.
    """
    path = verify(folder, "config.json")
    document = _read_json(path)
    if document.get("kind") != kind:
        raise CheckpointError(f"{path} holds a {document.get('kind')!r} model, not a {kind!r}")
    if document.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {document.get('format')!r}; known: {FORMAT}")
    try:
        return config_from_dict(cls, document.get("config"))
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def kind_of(folder: Path) -> str:
    """Return what kind of model a folder holds, as it says itself."""
    return str(_read_json(verify(folder, "config.json")).get("kind"))


def load_tensors(folder: Path, name: str = "model.safetensors") -> dict[str, Tensor]:
    """Return the verified tensors of a model folder, as stored; int8 ones as float32.

    The others are mapped from the file: a page takes memory once it is looked at, the system may
    take it back, and writing to a tensor changes a copy of the page and never the file.
    """
    return dict(_tensors(verify(folder, name)))


def stored_tensors(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and kind of numbers of what a model folder stores, from the header alone.

    Scales of int8 tensors are not named. Nothing is hashed: loading verifies.
    """
    with _opened(Path(folder) / "model.safetensors") as file:
        return _header(file)


def _header(file: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    kinds = {name: str(one.get_dtype()) for name, one in found.items()}
    return {
        name: (tuple(found[name].get_shape()), KINDS.get(kind, kind))
        for name, kind in kinds.items()
        if not (name.endswith(SCALE) and kinds.get(name.removesuffix(SCALE)) == "I8")
    }


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a file, int8 ones times their scales.

    The file is mapped anew from time to time: pages that were only read to be cast go then.
    """
    with _opened(path) as file:
        left = list(_header(file))
    while left:
        read = 0
        with _opened(path) as file:
            while left and read < MAPPED_BYTES:
                name = left.pop(0)
                tensor = file.get_tensor(name)
                read += tensor.nbytes
                yield name, _scaled(path, name, tensor, file)


def _scaled(path: Path, name: str, tensor: Tensor, file: Any) -> Tensor:
    """Return a tensor, or the float32 numbers that an int8 one stands for."""
    if tensor.dtype != torch.int8:
        return tensor
    scale = file.get_tensor(name + SCALE) if name + SCALE in file.keys() else None  # noqa: SIM118
    if scale is None or scale.shape != (*tensor.shape[:-1], 1):
        raise CheckpointError(f"{path}: int8 tensor {name} has no {name}{SCALE} that fits it")
    scaled: Tensor = tensor.float() * scale
    return scaled


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Map a file of tensors, or say in one line that it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def load_into(module: nn.Module, folder: Path) -> None:
    """Copy the weights of a model folder into ``module``, in the dtype and on the device it has.

    Raises:
        CheckpointError: names the first tensor that is missing, extra or misshapen.
    """
    path = verify(folder, "model.safetensors")
    wanted = module.state_dict()
    _check_fit(wanted, folder)
    with torch.no_grad():
        for name, tensor in _tensors(path):
            wanted[name].copy_(tensor)


def load_module(
    module: nn.Module,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Make the weights of a model folder those of ``module``, which may be on the meta device.

    What is not cast stays mapped from its file, so there is at most one copy in memory. Buffers
    that are not stored are left as they are.

    Args:
        module: every tensor of both sides must be there, with the same shape.
        folder: a model folder.
        dtype: of floating tensors; None: as stored, int8 as float32.
        device: where they go.

    Raises:
        CheckpointError: names the first tensor that is missing, extra or misshapen.
    """
    path = verify(folder, "model.safetensors")
    _check_fit(module.state_dict(), folder)
    placed = {}
    for name, tensor in _tensors(path):
        wanted = dtype if tensor.is_floating_point() else None
        own = tensor.clone() if tensor.nbytes < SMALL_BYTES else tensor
        placed[name] = own.to(device=device, dtype=wanted)
    module.load_state_dict(placed, assign=True)


def release(module: nn.Module) -> None:
    """Give the memory of a module's weights back; ``load_module`` makes it whole again."""
    empty = {name: tensor.to("meta") for name, tensor in module.state_dict().items()}
    module.load_state_dict(empty, assign=True)


def _check_fit(wanted: Mapping[str, Tensor], folder: Path) -> None:
    """Raise CheckpointError unless a folder stores exactly these tensors."""
    found = stored_tensors(folder)
    for name in sorted(wanted.keys() - found.keys()):
        raise CheckpointError(f"{folder}: tensor {name} is missing")
    for name in sorted(found.keys() - wanted.keys()):
        raise CheckpointError(f"{folder}: tensor {name} is not part of this model")
    for name, tensor in wanted.items():
        shape = found[name][0]
        if shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{folder}: tensor {name} has shape {shape}, "
                f"the config asks for {tuple(tensor.shape)}"
            )


def resolve_model(name_or_path: str | Path) -> Path:
    """Return the folder of a model: the bundled "nano", a folder on disk, or one kept from the hub.

    Nothing is fetched: ``Khala.from_pretrained`` and ``khala convert`` do that.

    Raises:
        CheckpointError: there is no such model; says what is allowed.
    """
    bundled = Path(__file__).parent / "models" / "nano"
    if str(name_or_path) == "nano" and bundled.is_dir():
        return bundled
    path = Path(name_or_path)
    if path.is_dir():
        if hub.is_download(path):
            raise CheckpointError(
                f"{path} is a download of published weights: `khala convert --from {path} --to "
                "MODEL` makes a model of it"
            )
        return path
    if hub.is_hub_id(name_or_path) and (kept := hub.kept_model(str(name_or_path))) is not None:
        return kept
    fetched = "; `khala convert --from` fetches a hub id" if hub.is_hub_id(name_or_path) else ""
    raise CheckpointError(
        f"no model {str(name_or_path)!r}: give 'nano' (bundled) or a folder with codec/, backbone/ "
        f"and superres/{fetched}"
    )


def resolve_part(name_or_path: str | Path, part: str) -> Path:
    """Return the folder of one model, given the whole model's folder or that folder itself."""
    folder = resolve_model(name_or_path)
    if (folder / part / "config.json").is_file():
        return folder / part
    if (folder / "config.json").is_file():
        return folder
    raise CheckpointError(f"{folder} holds no {part}: expected {part}/config.json")


def config_to_dict(config: object) -> dict[str, Any]:
    """Return a config dataclass as plain JSON types, nested dataclasses included."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"not a config: {config!r}")
    return dataclasses.asdict(config)


def config_from_dict(cls: type[C], values: object) -> C:
    """Build ``cls`` from plain JSON types; nothing may be unknown or of another type.

    A field with a default may be missing: it is younger than the file, and its default is what
    held before it.
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"{cls.__name__} must be an object, not {type(values).__name__}")
    assert dataclasses.is_dataclass(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            raise CheckpointError(f"unknown field {name!r} of {cls.__name__}")
    for name, field in known.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise CheckpointError(f"missing field {name!r} of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _value(hints[name], value, name) for name, value in values.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    """Check one JSON value against a field's type and return it as that type."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _value(next(o for o in options if o is not type(None)), value, name)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return config_from_dict(hint, value)
    if origin is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(hint)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_value(inner[0], item, name) for item in value)
        if len(inner) == len(value):
            return tuple(_value(h, item, name) for h, item in zip(inner, value, strict=True))
    if origin is typing.Literal and value in typing.get_args(hint):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise CheckpointError(f"field {name!r} must be {hint}, not {value!r}")


def _read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON object, or say what is wrong with it."""
    if not path.is_file():
        raise CheckpointError(f"model file is missing: {path}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return document
