"""Files of a hub repository at one commit: listed, fetched into huggingface_hub's cache, checked.

What the hub says of a file (size, and the sha256 of a large one or git's sha1 of a small one) is
kept as a listing. With a listing and its files on this computer, the hub is never asked again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from khala.errors import CapacityError, CheckpointError, ConfigError
from khala.hub import COMMIT

__all__ = ["HubFile", "Listing", "Progress", "Wanted", "ask", "download"]

HUB = "https://huggingface.co"
OLDEST = (1, 2)
"""The first huggingface_hub that lets a caller hear how far one file is."""

SPARE_BYTES = 64 << 20
"""Free space beyond the files."""

BLOCK_BYTES = 1 << 20
SHOWN = 6
"""Names of missing files that an error says; more are counted."""

Progress = Callable[[str, int, int], None]
"""Hears what is done, MB so far and MB in all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is looked for in a repository."""

    has: Callable[[str], bool]
    """Tells by a file's name whether it is wanted."""

    expected: str
    """What that is, in words."""

    by_hand: str
    """What to do with a folder DIR that was downloaded by hand."""

    kept_as: str
    """Name of the file that keeps the listing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """One file as the hub describes it."""

    name: str
    """Path in the repository, with slashes."""

    num_bytes: int

    sha256: str | None = None
    """Of a large file's bytes."""

    git_sha1: str | None = None
    """Of a small file, as git counts it; exactly one of the two is given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The files of one commit that are wanted."""

    repo: str
    commit: str
    files: tuple[HubFile, ...]


def ask(repo: str, revision: str | None, wanted: Wanted) -> Listing:
    """Return the wanted files of a repository as the hub lists them now.

    Args:
        repo: owner/name.
        revision: a branch, tag or commit; None: the main branch.
        wanted: what is looked for.

    Raises:
        CheckpointError: no such repository or revision, no permission, no network, or nothing there
            is wanted.
        ConfigError: huggingface_hub is not installed.
    """
    hub = _library()
    with _in_one_line(repo, revision, wanted):
        _check_online()
        api = hub.HfApi(endpoint=_endpoint())
        found = api.model_info(repo, revision=revision, files_metadata=True, timeout=30)
    if not COMMIT.fullmatch(found.sha or ""):  # it becomes a folder's name
        raise CheckpointError(f"{_where(repo)} names no commit but {found.sha!r}")
    files = [_described(one) for one in found.siblings or () if wanted.has(one.rfilename)]
    if not files:
        raise CheckpointError(f"{_where(repo)} does not have {wanted.expected}")
    return Listing(repo=repo, commit=found.sha, files=tuple(files))


def download(listing: Listing, wanted: Wanted, *, on_progress: Progress | None = None) -> Path:
    """Return the folder with a listing's files, all there and checked; fetch those that are not.

    Raises:
        CheckpointError: a file differs from the listing (it is removed), or cannot be fetched; says
            which are missing.
        CapacityError: the disk has too little room, said before anything is fetched.
        ConfigError: huggingface_hub is not installed.
    """
    hub = _library()
    missing = [file for file in listing.files if _kept(hub, listing, file) is None]
    if missing:
        _check_space(listing.repo, sum(file.num_bytes for file in missing))
    total = sum(file.num_bytes for file in listing.files)
    done = 0

    def hear(num_bytes: int) -> None:
        if on_progress is not None:
            on_progress("download (MB)", num_bytes // 1_000_000, max(1, total // 1_000_000))

    folders = set()
    for file in listing.files:
        path = _kept(hub, listing, file)
        if path is None:
            left = [one.name for one in missing[missing.index(file) :]]
            with _in_one_line(listing.repo, listing.commit, wanted, left):
                path = _fetch(hub, listing, file, _bar(hear, done))
        _check(path, file, listing)
        done += file.num_bytes
        hear(done)
        folders.add(path.parents[file.name.count("/")])
    (folder,) = folders
    return folder


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError("models of a hub need: pip install 'khala[hub]'") from error
    found = tuple(int(number) for number in huggingface_hub.__version__.split(".")[:2])
    if found < OLDEST:
        raise ConfigError(
            f"models of a hub need huggingface_hub {OLDEST[0]}.{OLDEST[1]} or newer, and "
            f"{huggingface_hub.__version__} is here: pip install 'khala[hub]'"
        )
    return huggingface_hub


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB


def _where(repo: str) -> str:
    return f"{_endpoint()}/{repo}"


def _cache() -> Path:
    """Return huggingface_hub's own cache."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE).expanduser()


def _check_online() -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise ConnectionError("HF_HUB_OFFLINE is set")


def _described(found: Any) -> HubFile:
    """Return one file of the hub's answer.

    Raises:
        CheckpointError: the answer has no size or no hash of it.
    """
    lfs = found.lfs
    size = found.size if lfs is None else lfs.size
    sha256, sha1 = (None, found.blob_id) if lfs is None else (lfs.sha256, None)
    if size is None or not (sha256 or sha1):
        raise CheckpointError(f"the hub names no size or no hash of {found.rfilename}")
    return HubFile(name=found.rfilename, num_bytes=size, sha256=sha256, git_sha1=sha1)


def _kept(hub: Any, listing: Listing, file: HubFile) -> Path | None:
    """Return a file that is on this computer."""
    found = hub.try_to_load_from_cache(
        listing.repo, file.name, cache_dir=_cache(), revision=listing.commit
    )
    return Path(found) if isinstance(found, str) else None


def _fetch(hub: Any, listing: Listing, file: HubFile, bar: type) -> Path:
    _check_online()
    found = hub.hf_hub_download(
        listing.repo,
        file.name,
        revision=listing.commit,
        cache_dir=_cache(),
        endpoint=_endpoint(),
        tqdm_class=bar,
    )
    return Path(found)


def _bar(on_bytes: Callable[[int], None], start: int) -> type:
    """Return a class that huggingface_hub takes for a progress bar, and that draws nothing."""

    class Bar:
        """Counts the bytes of one file."""

        def __init__(self, *_: Any, **__: Any) -> None:
            self.n, self.total = start, None

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def update(self, count: float | None = 1) -> None:
            """Hear of some bytes that are in the file."""
            self.n += int(count or 0)
            on_bytes(self.n)

        def update_transfer(self, count: float | None = 1) -> None:
            """Hear of bytes on the way, which are not counted."""

        def set_postfix_str(self, *_: Any, **__: Any) -> None:
            """Hear how fast it goes."""

        set_transfer_postfix_str = refresh = close = set_postfix_str

    return Bar


def _check_space(repo: str, needed: int) -> None:
    there = _cache().absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed + SPARE_BYTES:
        raise CapacityError(
            f"downloading {repo} into {_cache()} needs {(needed + SPARE_BYTES) / 1e9:.1f} GB "
            f"and {free / 1e9:.1f} GB are free (HF_HUB_CACHE names another folder)"
        )


def _check(path: Path, file: HubFile, listing: Listing) -> None:
    """Compare a file with what the hub says of it; one that differs is removed from the cache.

    Raises:
        CheckpointError: it differs.
    """
    size = path.stat().st_size
    seen = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {size}\0".encode())
    with path.open("rb") as opened:
        while block := opened.read(BLOCK_BYTES):
            seen.update(block)
    if size == file.num_bytes and seen.hexdigest() == (file.sha256 or file.git_sha1):
        return
    what = f"has {size:,} bytes, not {file.num_bytes:,}"
    if size == file.num_bytes:
        what = f"does not have the {'sha256' if file.sha256 else 'hash'} that the hub names"
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    raise CheckpointError(
        f"damaged download: {file.name} of {listing.repo} {what}; it was removed, and the same "
        "command fetches it again"
    )


@contextmanager
def _in_one_line(
    repo: str, revision: str | None, wanted: Wanted, missing: Sequence[str] = ()
) -> Iterator[None]:
    """Turn what huggingface_hub raises into a CheckpointError that says what to do."""
    from huggingface_hub import errors

    def by_hand(error: Exception) -> CheckpointError:
        why = str(error.__cause__ or error).strip().split("\n")[0] or type(error).__name__
        names = ", ".join(missing[:SHOWN]) or wanted.expected
        more = f" and {len(missing) - SHOWN} more" if missing[SHOWN:] else ""
        at = "" if revision is None else f" --revision {revision}"
        return CheckpointError(
            f"cannot fetch {repo} from {_endpoint()} ({why}); not on this computer: {names}{more}. "
            f"Where there is a network: `hf download {repo}{at} --local-dir DIR`; {wanted.by_hand}"
        )

    http_error: Any = errors.HfHubHTTPError.__bases__[0]  # of whichever library it asks with
    xet_error: Any = getattr(errors, "XetDownloadError", http_error)
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repo} is given only to those who accept its terms: do that at {_where(repo)}, then "
            "`hf auth login` here"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{_where(repo)} has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"no model {repo!r}: there is no such folder, and no repository {_where(repo)} that "
            "may be read without `hf auth login`"
        ) from error
    except errors.EntryNotFoundError as error:
        if not isinstance(error, errors.LocalEntryNotFoundError):
            raise CheckpointError(f"{_where(repo)} lacks a file that it lists: {error}") from error
        raise by_hand(error) from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"no model {repo!r}: {error}") from error
    except (http_error, xet_error, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        # the last three: whoever answered is no hub
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of this computer's disk
        raise by_hand(error) from error
