"""What a folder with published weights holds, found by looking at it.

    as published                            the converted copy
    |-- backbone/                           |-- khala_backbone.safetensors
    |   |-- latest_checkpointed_...txt      |-- backbone_megatron_args.json
    |   `-- iter_0036000/ .metadata ...     |-- khala_superres.safetensors
    |-- superresolution/                    |-- superres_megatron_args.json
    |   `-- iter_0010000/ ...               `-- decoder_weights.pt
    `-- dac_rvq_2490000.ckpt

Each model may be missing; a tokenizer.json may stand beside them. Nothing is loaded: a tensor is a
name, a shape and a place until it is read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from khala.backbone import BackboneConfig
from khala.codec.config import CodecConfig
from khala.convert.arguments import find_arguments
from khala.convert.codec import (
    GENERATOR,
    check_copies,
    codec_config,
    codec_tensors,
    split_codec,
)
from khala.convert.converted import plain_sizes, plain_tensors
from khala.convert.dcp import DTYPES, read_distributed, why_skipped
from khala.convert.megatron import is_megatron, megatron_sizes, megatron_tensors
from khala.convert.pickles import STANDARD
from khala.convert.safetensors_file import find_tensors
from khala.convert.sizes import max_positions, trunk_config
from khala.convert.stored import PlainTensor, StoredTensor
from khala.convert.torch_file import find_state_dict
from khala.errors import CheckpointError
from khala.superres import SuperResConfig
from khala.tokens import COARSE_LEVELS, TextTokenizer, published_layout

__all__ = ["PARTS", "Part", "Source", "check_tokenizer", "is_read", "look"]

PARTS = ("codec", "backbone", "superres")
POSITIONS = {"backbone": 16_384, "superres": 8_192}
"""Longest streams of the published models."""

TITLES = {"backbone": "a backbone", "superres": "a super-resolution model"}
TRACKER = "latest_checkpointed_iteration.txt"
TOKENIZERS = ("tokenizer.json", "Tokenizer/tokenizer.json", "tokenizer/tokenizer.json")
READ = re.compile(
    r"(backbone|superresolution)/latest_checkpointed_iteration\.txt"
    r"|((backbone|superresolution)/((iter_\d+|release)/)?)?((backbone|superres)_)?megatron_args\.json"
    r"|(backbone|superresolution)/(iter_\d+|release)/(\.metadata|common\.pt|\w[\w.-]*\.distcp)"
    r"|\w[\w.-]*\.ckpt|decoder_weights\.pt|khala_(backbone|superres)\.safetensors"
    r"|([Tt]okenizer/)?tokenizer\.json",
    re.ASCII,
)
LIGHTNING = (
    *("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.", "torchmetrics."),
    *("numpy.", "torch.device", "torch.torch_version.", "torch.optim.", *DTYPES, *STANDARD),
)
"""Classes that Lightning keeps beside the weights; read as plain values and not used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One of the three models, understood but not read."""

    kind: str
    """"codec", "backbone" or "superres"."""

    source: Path
    """Its folder or file."""

    files: tuple[Path, ...]
    """Every file that holds some of its weights."""

    config: CodecConfig | BackboneConfig | SuperResConfig
    tensors: tuple[PlainTensor, ...]

    skipped: dict[str, str]
    """Entries of the source that are not used, and why."""

    notes: tuple[str, ...]
    """What was assumed or found on the way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What a folder holds."""

    folder: Path
    parts: dict[str, Part]
    tokenizer: Path | None
    missing: tuple[str, ...] = field(default=())
    """What a whole model would need beside this."""

    download: Mapping[str, Any] | None = None
    """Where the folder was downloaded from, for the conversion's report."""


def is_read(name: str) -> bool:
    """Tell whether `look` may read a file of a download, given its path there with slashes."""
    return READ.fullmatch(name) is not None


def look(folder: Path, *, tokenizer: Path | None = None) -> Source:
    """Return what ``folder`` holds; every name and shape is checked.

    Args:
        folder: a download as it is.
        tokenizer: a tokenizer.json that is used instead of the folder's.

    Raises:
        CheckpointError: no published weights there, or they are damaged, incomplete, those of
            another model, or contradict their arguments.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}")
    parts: dict[str, Part] = {}
    for part in _parts(folder):
        if part.kind in parts:
            raise CheckpointError(
                f"{folder} has two of one kind: {parts[part.kind].source} and {part.source}"
            )
        parts[part.kind] = part
    if not parts:
        raise CheckpointError(
            f"{folder} has no published weights: expected backbone/, superresolution/ and a .ckpt "
            "file, or khala_backbone.safetensors, khala_superres.safetensors and decoder_weights.pt"
        )
    if tokenizer is None:
        tokenizer = next((folder / name for name in TOKENIZERS if (folder / name).is_file()), None)
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    missing = [kind for kind in PARTS if kind not in parts]
    missing += ["tokenizer.json"] if tokenizer is None else []
    ordered = {kind: parts[kind] for kind in PARTS if kind in parts}
    return Source(folder=folder, parts=ordered, tokenizer=tokenizer, missing=tuple(missing))


def _parts(folder: Path) -> list[Part]:
    """Return every model that stands in a folder."""
    found = []
    for kind, name in (("backbone", "backbone"), ("superres", "superresolution")):
        if (folder / name).is_dir():
            found.append(_distributed(folder / name, kind))
        copy = folder / f"khala_{kind}.safetensors"
        if copy.is_file():
            args = folder / f"{kind}_megatron_args.json"
            tensors = find_tensors(copy)
            found.append(_language(kind, copy, (copy,), tensors, {}, find_arguments([args])))
    if (folder / ".metadata").is_file() or (folder / TRACKER).is_file():
        found.append(_distributed(folder, None))
    codecs = [*sorted(folder.glob("*.ckpt")), *folder.glob("decoder_weights.pt")]
    return found + [_codec(path) for path in codecs]


def _iteration(folder: Path) -> Path:
    """Return the folder of the checkpoint that counts, of those Megatron wrote."""
    if (folder / ".metadata").is_file():
        return folder
    tracker = folder / TRACKER
    if tracker.is_file():
        word = tracker.read_text(errors="replace").strip()
        if word != "release" and not word.isdecimal():
            raise CheckpointError(f"{tracker} must hold a number or 'release', not {word[:40]!r}")
        found = [folder / (word if word == "release" else f"iter_{int(word):07d}")]
    else:
        found = sorted(path for path in folder.glob("iter_*") if path.is_dir())
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise CheckpointError(f"{folder} needs one iter_* folder or a {TRACKER}; found: {names}")
    if not (found[0] / ".metadata").is_file():
        raise CheckpointError(f"{found[0] / '.metadata'} is missing: not the whole download")
    return found[0]


def _distributed(folder: Path, kind: str | None) -> Part:
    """Return a language model that Megatron wrote."""
    iteration = _iteration(folder)
    found = read_distributed(iteration)
    names = [f"{word}megatron_args.json" for word in ("", *(() if kind is None else (f"{kind}_",)))]
    places = dict.fromkeys((iteration, folder, folder.parent))
    beside = [place / name for place in places for name in names]
    files = (iteration / ".metadata", *(iteration / name for name in found.files))
    args = find_arguments(beside, iteration / "common.pt")
    return _language(kind, iteration, files, found.tensors, found.skipped, args)


def _language(
    kind: str | None,
    source: Path,
    files: tuple[Path, ...],
    stored: Mapping[str, StoredTensor],
    skipped: Mapping[str, str],
    arguments: tuple[Mapping[str, object] | None, list[str]],
) -> Part:
    """Return a language model from its tensors, whatever their names."""
    args, notes = arguments
    skipped = {**skipped, **{name: why for name in stored if (why := why_skipped(name))}}
    stored = {name: tensor for name, tensor in stored.items() if name not in skipped}
    megatron = is_megatron(stored)
    sizes = (megatron_sizes if megatron else plain_sizes)(stored, source=str(source))
    kind = _kind(kind, sizes.num_rows, source)
    # why arguments could not be read must be known where they are missed
    where = str(source) if args is not None or not notes else f"{source} ({'; '.join(notes)})"
    trunk, assumed = trunk_config(sizes, args, source=where)
    longest, unsaid = max_positions(args, POSITIONS[kind], source=str(source))
    config = (BackboneConfig if kind == "backbone" else SuperResConfig)(
        trunk=trunk,
        layout=published_layout(),
        max_positions=longest,
        num_rows=sizes.num_rows,
    )
    if megatron:
        plain = megatron_tensors(stored, trunk, num_rows=sizes.num_rows, source=str(source))
    else:
        plain = plain_tensors(stored, config, source=str(source))
    return Part(
        kind=kind,
        source=source,
        files=files,
        config=config,
        tensors=tuple(plain),
        skipped=skipped,
        notes=(*notes, *assumed, *unsaid),
    )


def _kind(kind: str | None, num_rows: int, source: Path) -> str:
    """Return which model has so many rows.

    Raises:
        CheckpointError: none, or not the one that belongs there.
    """
    layout = published_layout()
    fewest = {
        "backbone": layout.vocab_size(COARSE_LEVELS),
        "superres": layout.vocab_size(layout.num_levels),
    }
    found = next((kind for kind in ("superres", "backbone") if num_rows >= fewest[kind]), None)
    if found is None:
        raise CheckpointError(
            f"{source} has {num_rows:,} rows in its vocabulary: a backbone has at least "
            f"{fewest['backbone']:,}, super-resolution at least {fewest['superres']:,}"
        )
    if kind is not None and found != kind:
        raise CheckpointError(
            f"{source} holds {TITLES[found]} ({num_rows:,} rows in its vocabulary), and "
            f"{TITLES[kind]} belongs there"
        )
    return found


def _codec(path: Path) -> Part:
    found = find_state_dict(path, records=LIGHTNING)
    stored, skipped = split_codec(found)
    config = codec_config(stored, source=str(path))
    tensors = codec_tensors(stored, config, source=str(path))
    copies = check_copies(stored, source=str(path))
    entries = len([name for name in found if name.startswith(GENERATOR)])
    if entries:
        copies = [GENERATOR + name for name in copies]
        tensors = [
            dataclasses.replace(one, sources=tuple(GENERATOR + name for name in one.sources))
            for one in tensors
        ]
    skipped |= dict.fromkeys(copies, "a copy of a codebook, equal to it")
    notes = [
        f"{entries or len(found)} entries of the codec",
        "always stored in float32: codes depend on it",
    ]
    if config.conv is not None and config.conv.encoder_filters is None:
        notes.append("no encoder: songs can be made and played, recordings cannot be encoded")
    return Part(
        kind="codec",
        source=path,
        files=(path,),
        config=config,
        tensors=tuple(tensors),
        skipped=skipped,
        notes=tuple(notes),
    )


def check_tokenizer(path: Path) -> None:
    """Raise CheckpointError unless text ends where the published control ids begin."""
    wanted = published_layout().first_control_id
    found = TextTokenizer.load(path).first_control_id
    if found != wanted:
        raise CheckpointError(
            f"{path} is not the tokenizer of the published models: its special tokens begin at "
            f"{found}, not at {wanted}"
        )
