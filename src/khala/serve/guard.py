"""Who may come in: the outermost layer, before anything else looks at a request.

It knows no routes: what is not on its short list needs a token, also what is added tomorrow.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import re
import secrets
import time
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from khala.errors import ConfigError
from khala.serve.problems import problem
from khala.serve.settings import Settings

__all__ = ["OPEN", "Guard", "Tokens", "security_headers"]

OPEN = ("/healthz", "/health")
"""Paths that are answered without a token; the studio's own files are, too: they hold no secret."""

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self' blob:; media-src 'self' blob:; img-src 'self' blob: data:; "
    "font-src 'self'; manifest-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

BODY_S = 60.0
"""In which a body must have come."""

BURST_S = 10.0

_API = re.compile(r"/(v1|metrics|openapi\.json|docs|release_task|query_result|health|healthz)(/|$)")


def security_headers() -> list[tuple[bytes, bytes]]:
    """Return what every answer carries."""
    headers = {
        "Content-Security-Policy": CSP,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Owners and the digests of their tokens, by owner."""

    digests: dict[str, bytes]

    @classmethod
    def load(cls, data: Path) -> tuple[Tokens, str | None]:
        """Read the tokens of a data folder; make one where there are none.

        Returns:
            The tokens, and the new one, to be shown this once.

        Raises:
            ConfigError: the file can be read by others, or is not what it must be.
        """
        path, new = data / "tokens.json", None
        if not path.exists():
            new = secrets.token_urlsafe(32)
            _write_private(path, json.dumps({"owner": new}) + "\n")
        mode = path.stat().st_mode & 0o077
        if mode:
            raise ConfigError(f"{path} can be read by others: chmod 600 it, or remove it")
        try:
            tokens = json.loads(path.read_text())
            digests = {name: sha256(token.encode()).digest() for name, token in tokens.items()}
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{path} is not a table of owners and tokens") from error
        if not digests or any(len(token) < 16 for token in tokens.values()):
            raise ConfigError(f"{path} needs an owner with a token of at least 16 characters")
        return cls(digests=digests), new

    def owner(self, token: str) -> str | None:
        """Return whose token it is; as slow for a wrong one as for a right one."""
        digest, found = sha256(token.encode("utf-8", "replace")).digest(), None
        for name, known in self.digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def add_owner(data: Path, owner: str) -> str:
    """Give somebody a token of their own, and return it; their songs are theirs alone.

    Raises:
        ConfigError: there is such an owner.
    """
    Tokens.load(data)
    path = data / "tokens.json"
    tokens = json.loads(path.read_text())
    if owner in tokens or not re.fullmatch(r"[\w.@-]{1,64}", owner):
        raise ConfigError(f"{owner!r} has a token already, or is no name of letters and digits")
    tokens[owner] = secrets.token_urlsafe(32)
    _write_private(path, json.dumps(tokens) + "\n")
    return str(tokens[owner])


@dataclass(kw_only=True)
class Bucket:
    """What one owner may still ask for."""

    left: float
    at_s: float = field(default_factory=time.monotonic)

    def take(self, rate: float) -> float:
        """Take one; return how long to wait if there is none."""
        now_s = time.monotonic()
        self.left = min(self.left + (now_s - self.at_s) * rate, rate * BURST_S)
        self.at_s = now_s
        if self.left < 1.0:
            return (1.0 - self.left) / rate
        self.left -= 1.0
        return 0.0


class Guard:
    """An ASGI layer: host, origin, token, rate, size; and headers on every answer."""

    def __init__(self, app: ASGIApp, settings: Settings, tokens: Tokens) -> None:
        self._app, self._settings, self._tokens = app, settings, tokens
        self._buckets: dict[str, Bucket] = {}
        self._headers = security_headers()
        self.port = settings.port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no web sockets here

        body: _Counted | None = None

        async def send_safe(message: Message) -> None:
            if body is not None and body.is_too_large:
                return  # whatever was made of half a body
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self._headers]}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1")
                   for name, value in scope["headers"]}  # fmt: skip
        refused = self._refused(scope, headers)
        if refused is not None:
            await refused(scope, receive, send_safe)
            return
        limit = self._body_limit(scope)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            answer = problem(413, "too_large", f"a body has at most {limit} bytes here")
            await answer(scope, receive, send_safe)
            return
        body = _Counted(receive, limit)
        with contextlib.suppress(_TooLarge):
            await self._app(scope, body, send_safe)
        if body.is_too_large:
            body.is_too_large = False
            answer = problem(413, "too_large", f"a body has at most {limit} bytes here")
            await answer(scope, receive, send_safe)

    def _refused(self, scope: Scope, headers: dict[str, str]) -> ASGIApp | None:
        """Return an answer if a request may not come in."""
        if headers.get("host", "").lower() not in self._hosts():
            return problem(403, "wrong_host", "this name is not one of this service: --public-url")
        origin = headers.get("origin")
        is_foreign = origin is not None and urlsplit(origin).netloc.lower() not in self._hosts()
        if is_foreign or headers.get("sec-fetch-site", "none") in ("cross-site", "same-site"):
            return problem(403, "wrong_origin", "pages of other sites may not use this service")
        path, method = scope["path"], scope["method"]
        if method == "OPTIONS":
            return problem(405, "method_not_allowed", "other sites may not use this service")
        if path in OPEN or (method in ("GET", "HEAD") and not _API.match(path)):
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        owner = self._tokens.owner(token.strip()) if scheme.lower() == "bearer" else None
        if owner is None:
            detail = "send the service's token: Authorization: Bearer TOKEN"
            return problem(401, "no_token", detail)
        scope["state"] = {**scope.get("state", {}), "owner": owner}
        rate = self._settings.limits.requests_per_s
        bucket = self._buckets.setdefault(owner, Bucket(left=rate * BURST_S))
        wait_s = bucket.take(rate)
        if wait_s:
            detail = f"at most {rate:g} requests a second are answered"
            return problem(429, "too_fast", detail, wait_s=wait_s)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        allowed = UPLOADS if path == IMPORT else ("application/json",)
        if method not in ("GET", "HEAD") and has_body and kind not in allowed:
            return problem(415, "wrong_content", f"a body here is {' or '.join(allowed)}")
        return None

    def _hosts(self) -> set[str]:
        names = {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        if self._settings.public_url is not None:
            names.add(urlsplit(self._settings.public_url).netloc.lower())
        return names

    def _body_limit(self, scope: Scope) -> int:
        limits = self._settings.limits
        if scope["method"] in ("GET", "HEAD", "DELETE"):
            return limits.json_bytes
        return limits.upload_bytes if scope["path"] == IMPORT else limits.json_bytes


IMPORT = "/v1/songs/import"
UPLOADS = (
    "application/octet-stream", "audio/wav", "audio/x-wav", "audio/flac", "audio/x-flac",
    "audio/mpeg", "audio/ogg", "application/vnd.khala",
)  # fmt: skip


class _TooLarge(Exception):
    """A body did not end where it had to."""


class _Counted:
    """A body that is counted while it comes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._num = receive, limit, 0
        self._until_s = time.monotonic() + BODY_S
        self._is_whole = False
        self.is_too_large = False

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()
        left_s = self._until_s - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), timeout=max(left_s, 0.01))
        except TimeoutError:
            return {"type": "http.disconnect"}
        if message["type"] == "http.request":
            self._num += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._num > self._limit:
                self.is_too_large = True
                raise _TooLarge
        return message


def _write_private(path: Path, text: str) -> None:
    """Write a file that nobody else can read, also while it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
