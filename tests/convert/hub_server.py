"""A model hub on this computer: the part of its HTTP that downloads use, over real sockets."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 50_000
"""Files from here on are kept by sha256 and served from another address, as large ones are."""


@dataclass
class Repository:
    """Folders by commit, and commits by the names of branches."""

    commits: dict[str, Path]
    branches: dict[str, str]
    gated: bool = False


@dataclass
class Hub:
    """Repositories, and everything that was asked."""

    repositories: dict[str, Repository]
    address: str = ""
    asked: list[str] = field(default_factory=list)
    on_get: Callable[[str, bytes], bytes] = lambda _, content: content
    """Changes what is sent: name of the file, its bytes."""

    _seen: dict[Path, tuple[str, str]] = field(default_factory=dict)

    def hashes(self, path: Path) -> tuple[str, str]:
        """sha256 of a file, and its sha1 as git counts it."""
        if path not in self._seen:
            data = path.read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            self._seen[path] = (hashlib.sha256(data).hexdigest(), git)
        return self._seen[path]

    def sent(self) -> list[str]:
        """Names of the files whose bytes were sent."""
        return [line.removeprefix("send ") for line in self.asked if line.startswith("send ")]


@contextmanager
def serve(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """Run a hub until the end of the block."""
    hub = Hub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Asked", (_Asked,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Asked(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Describe a file."""
        self._answer(with_body=False)

    def do_GET(self) -> None:
        """Describe a repository, or send a file."""
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        words = [unquote(word) for word in urlsplit(self.path).path.strip("/").split("/")]
        if words[0] == "stored":
            self._send_file(Path("/" + "/".join(words[1:])), with_body)
            return
        if words[0] == "portal":
            self._send(b"<html>Please accept our terms</html>", {}, with_body)
            return
        is_listing = words[:2] == ["api", "models"]
        words = words[2:] if is_listing else words
        name, rest = "/".join(words[:2]), words[2:]
        self.hub.asked.append(f"{'list' if is_listing else self.command} {'/'.join(words)}")
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._refuse(401, "RepoNotFound")
            return
        commit = rest[1] if rest[1:] else "main"
        commit = repository.branches.get(commit, commit)
        if commit not in repository.commits:
            self._refuse(404, "RevisionNotFound", "Invalid rev id: " + commit)
        elif is_listing:
            self._send(json.dumps(self._listed(name, commit, repository)).encode(), {}, with_body)
        elif repository.gated:
            self._refuse(403, "GatedRepo")
        else:
            self._describe(repository.commits[commit], "/".join(rest[2:]), commit, with_body)

    def _listed(self, name: str, commit: str, repository: Repository) -> dict[str, Any]:
        siblings = []
        folder = repository.commits[commit]
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            (sha256, sha1), size = self.hub.hashes(path), path.stat().st_size
            one: dict[str, Any] = {"rfilename": path.relative_to(folder).as_posix(), "size": size}
            one["blobId"] = sha1
            if size >= LARGE_BYTES:
                one["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
            siblings.append(one)
        return {"id": name, "sha": commit, "siblings": siblings}

    def _describe(self, folder: Path, name: str, commit: str, with_body: bool) -> None:
        path = folder / name
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        sha256, sha1 = self.hub.hashes(path)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if path.stat().st_size < LARGE_BYTES:
            self._send_file(path, with_body, headers | {"ETag": f'"{sha1}"'})
            return
        headers["X-Linked-Size"] = str(path.stat().st_size)
        headers["X-Linked-Etag"] = f'"{sha256}"'
        elsewhere = self.hub.address.replace("127.0.0.1", "localhost")
        headers["Location"] = f"{elsewhere}/stored{path}"
        self._send(b"", headers, with_body, status=302)

    def _send_file(
        self, path: Path, with_body: bool, headers: dict[str, str] | None = None
    ) -> None:
        if not with_body:
            self._send(b"", {**(headers or {}), "Content-Length": str(path.stat().st_size)}, False)
            return
        name = next(
            path.relative_to(folder).as_posix()
            for repository in self.hub.repositories.values()
            for folder in repository.commits.values()
            if path.is_relative_to(folder)
        )
        self.hub.asked.append(f"send {name}")
        data = path.read_bytes()
        status, headers = 200, dict(headers or {})
        if "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[start:]
        headers["Content-Length"] = str(len(data))
        self._send(self.hub.on_get(name, data), headers, True, status=status)

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message or code}
        self._send(b"", headers, True, status=status)

    def _send(
        self, body: bytes, headers: dict[str, str], with_body: bool, *, status: int = 200
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)
        if with_body and len(body) < int(headers.get("Content-Length", 0)):
            self.close_connection = True
