"""From a hub id to a model folder: downloaded at one commit, converted once, kept.

See `khala.hub` for where it is kept. A branch's commit is asked for once and then stays: the same
name is the same model tomorrow, with or without a network, until another revision is given.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from khala import hub
from khala.checkpoint import sha256_file
from khala.convert.conversion import convert, write_file
from khala.convert.download import HubFile, Listing, Progress, Wanted, ask, download
from khala.convert.published import Source, check_tokenizer, is_read, look
from khala.errors import CapacityError, CheckpointError
from khala.processes import alone_in

__all__ = ["fetch_model", "fetch_source", "find_tokenizer"]

WEIGHTS = Wanted(
    has=is_read,
    expected="backbone/, superresolution/ and a .ckpt file, or khala_backbone.safetensors, "
    "khala_superres.safetensors and decoder_weights.pt with their *_megatron_args.json",
    by_hand="then here `khala convert --from DIR --to MODEL --tokenizer TOKENIZER`, and give MODEL",
    kept_as="download.json",
)
TOKENIZER = Wanted(
    has=lambda name: name == "tokenizer.json",
    expected="tokenizer.json",
    by_hand="then give DIR as the tokenizer",
    kept_as="tokenizer-download.json",
)
NO_TOKENIZER = (
    "no tokenizer comes with these weights: give the folder with the tokenizer.json of Llama 3.1 "
    "(tokenizer= or --tokenizer), or a hub id that has it, such as meta-llama/Llama-3.1-8B"
)
LICENCE = (
    "the published Khala weights may not be used commercially (CC BY-NC 4.0), and a converted copy "
    "is still theirs"
)

OnNote = Callable[[str], None]
"""Hears one line that a person should read."""


def fetch_model(
    repo: str,
    *,
    revision: str | None = None,
    tokenizer: str | Path | None = None,
    on_progress: Progress | None = None,
    on_note: OnNote | None = None,
) -> Path:
    """Return the model folder of a hub repository; download and convert it if it is not kept.

    Args:
        repo: owner/name.
        revision: branch, tag or commit; None: the main branch, as it was when first asked for.
        tokenizer: a folder with tokenizer.json, that file, or a hub id; needed once, if the
            repository has none.
        on_progress: hears what is done.
        on_note: hears the licence before weights are fetched, and of waiting for another process.

    Raises:
        CheckpointError: it cannot be fetched, is damaged, or is no Khala model; nothing
            half-written is left where models are looked for.
        CapacityError: the disk has too little room, said before the download or the conversion.
        ConfigError: huggingface_hub is not installed.
    """
    kept = hub.kept_model(repo, revision)
    if kept is not None:
        _check_same_tokenizer(kept, tokenizer)
        return kept
    listing = _pinned(repo, revision)
    has_tokenizer = any(file.name.endswith("tokenizer.json") for file in listing.files)
    if tokenizer is None and not has_tokenizer:
        raise CheckpointError(f"{repo}: {NO_TOKENIZER}")
    place = hub.commit_folder(repo, listing.commit)
    model = place / "model"

    def wait() -> None:
        if on_note is not None:
            on_note(f"waiting for another process that fetches into {place}")

    with alone_in(place, wait):
        if not model.is_dir():  # nobody was faster
            source = _source(listing, tokenizer, on_progress, on_note)
            if source.missing:
                raise CheckpointError(f"{repo} is no whole model: no {', '.join(source.missing)}")
            unfinished = place / ".unfinished"
            try:
                convert(source, unfinished, on_progress=on_progress)
            except CapacityError as error:
                raise CapacityError(f"{error} (KHALA_CACHE names another folder)") from error
            unfinished.rename(model)
    _check_same_tokenizer(model, tokenizer)
    return model


def fetch_source(
    repo: str,
    *,
    revision: str | None = None,
    tokenizer: str | Path | None = None,
    on_progress: Progress | None = None,
    on_note: OnNote | None = None,
) -> Source:
    """Return what a hub repository holds, downloaded and looked at, for `convert`.

    Arguments and errors are those of `fetch_model`, but whatever is missing is only said.
    """
    return _source(_pinned(repo, revision), tokenizer, on_progress, on_note)


def find_tokenizer(given: str | Path) -> Path:
    """Return a tokenizer.json that fits the published models, from a file, a folder or a hub id.

    Raises:
        CheckpointError: there is none, or it is another tokenizer.
    """
    path = Path(given)
    if path.is_dir():
        path /= "tokenizer.json"
    if hub.is_hub_id(given):
        listing = _pinned(str(given), None, TOKENIZER)
        path = download(listing, TOKENIZER) / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"no tokenizer {str(given)!r}: give a folder with tokenizer.json, the file, or a hub id"
        )
    check_tokenizer(path)
    return path


def _source(
    listing: Listing,
    tokenizer: str | Path | None,
    on_progress: Progress | None,
    on_note: OnNote | None,
) -> Source:
    """Return a listing's files as a source; a tokenizer that does not fit is said first."""
    chosen = None if tokenizer is None else find_tokenizer(tokenizer)
    if on_note is not None:
        on_note(f"fetching {listing.repo} at {listing.commit[:12]}: {LICENCE}")
    folder = download(listing, WEIGHTS, on_progress=on_progress)
    files = {
        file.name: {
            "bytes": file.num_bytes,
            "sha256": file.sha256 or sha256_file(folder / file.name),
        }
        for file in listing.files
    }
    origin = {"repo": listing.repo, "commit": listing.commit, "files": files}
    return dataclasses.replace(look(folder, tokenizer=chosen), download=origin)


def _check_same_tokenizer(model: Path, given: str | Path | None) -> None:
    """Raise CheckpointError if a tokenizer is given and the model was made with another one."""
    if given is None:
        return
    there = model / "tokenizer.json"
    if find_tokenizer(given).read_bytes() != there.read_bytes():
        raise CheckpointError(
            f"{there} is there and differs from {given}: remove {model} to change it"
        )


def _pinned(repo: str, revision: str | None, wanted: Wanted = WEIGHTS) -> Listing:
    """Return the listing of a revision: the one that was kept, or the hub's, which is kept then."""
    commit = hub.pinned_commit(repo, revision)
    if commit is not None:
        path = hub.commit_folder(repo, commit) / wanted.kept_as
        if path.is_file():
            return _read(path, repo, commit)
    listing = ask(repo, revision if commit is None else commit, wanted)
    files = [dataclasses.asdict(file) for file in listing.files]
    kept = {"repo": repo, "commit": listing.commit, "files": files}
    place = hub.commit_folder(repo, listing.commit) / wanted.kept_as
    _write(place, json.dumps(kept, indent=1) + "\n")
    if commit is None:
        _write(hub.revision_file(repo, revision), listing.commit + "\n")
    return listing


def _read(path: Path, repo: str, commit: str) -> Listing:
    try:
        kept = json.loads(path.read_bytes())
        files = tuple(HubFile(**file) for file in kept["files"])
        if (kept["repo"], kept["commit"]) != (repo, commit):
            raise ValueError("it is of another repository")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): remove it") from error
    return Listing(repo=repo, commit=commit, files=files)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text.encode())
