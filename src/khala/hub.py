"""Names on a model hub, and where the models behind them are kept on this computer.

    $KHALA_CACHE, else $XDG_CACHE_HOME/khala, else ~/.cache/khala
    `-- hub/owner--name/
        |-- revisions/main      the commit that this name meant when it was first asked for
        `-- <commit>/
            |-- download.json   the files of the hub that the model is made from, and their hashes
            `-- model/          the model folder; it stands there only when it is whole

A model that is there is found without asking anybody. The downloads themselves lie in the cache of
huggingface_hub.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

__all__ = [
    "COMMIT",
    "cache_folder",
    "commit_folder",
    "is_download",
    "is_hub_id",
    "kept_model",
    "pinned_commit",
    "revision_file",
]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
"""How a hub names a commit."""

BRANCH = "main"
DOWNLOADED = ("khala_backbone.safetensors", "khala_superres.safetensors", "dac_rvq_*.ckpt")
"""Names in a download of published weights that no model folder has."""


def is_hub_id(name: str | Path) -> bool:
    """Tell whether a name is owner/name on the hub; a folder here of that name comes first."""
    return isinstance(name, str) and bool(HUB_ID.fullmatch(name)) and not Path(name).exists()


def cache_folder() -> Path:
    """Return where models made from downloads are kept, as the environment says now."""
    if chosen := os.environ.get("KHALA_CACHE"):
        return Path(chosen).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "khala"
    return Path.home() / ".cache" / "khala"


def commit_folder(repo: str, commit: str) -> Path:
    """Return where everything of one commit of a repository is kept."""
    return _repo_folder(repo) / commit


def revision_file(repo: str, revision: str | None) -> Path:
    """Return the file that keeps which commit a branch or tag meant."""
    return _repo_folder(repo) / "revisions" / quote(revision or BRANCH, safe="")


def pinned_commit(repo: str, revision: str | None) -> str | None:
    """Return the commit of a revision: itself, what was kept for a name, or None if nothing was."""
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    path = revision_file(repo, revision)
    kept = path.read_text(errors="replace").strip() if path.is_file() else ""
    return kept if COMMIT.fullmatch(kept) else None


def kept_model(repo: str, revision: str | None = None) -> Path | None:
    """Return the model folder made from a repository, or None if there is none yet."""
    commit = pinned_commit(repo, revision)
    folder = None if commit is None else commit_folder(repo, commit) / "model"
    return folder if folder is not None and folder.is_dir() else None


def is_download(folder: Path) -> bool:
    """Tell whether a folder holds published weights that are not converted yet."""
    megatron = ("backbone", "superresolution")
    iterations = (path for name in megatron for path in (folder / name).glob("iter_*"))
    copies = (path for name in DOWNLOADED for path in folder.glob(name))
    return any(iterations) or any(copies)


def _repo_folder(repo: str) -> Path:
    return cache_folder() / "hub" / repo.replace("/", "--")
