"""A client for a Khala service: ask for songs, watch them being made, fetch their sound.

    from khala.client import Client

    service = Client("http://127.0.0.1:8765", token)
    (song,) = service.create(prompt="pop, piano", lyrics="[Verse]\\nGood morning, sun")
    song = service.wait(song.id)
    Path("song.mp3").write_bytes(service.audio(song.id, format="mp3"))

Nothing beyond the standard library is needed.
"""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

from khala.errors import CapacityError, KhalaError, RequestError

__all__ = ["Client", "Event", "RemoteSong", "ServiceError"]

LIVE = ("queued", "working")
TIMEOUT_S = 60.0


class ServiceError(KhalaError):
    """The service refused or failed; ``code`` is stable, ``status`` that of HTTP (0: no answer)."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteSong:
    """A song as the service tells of it."""

    id: str
    title: str
    state: str
    """"queued", "working", "paused", "done", "cancelled" or "failed"."""

    stage: str
    levels: int
    """Finished."""

    levels_wanted: int
    duration: float | None
    """Seconds of what is there."""

    seed: int
    family: str
    """Variants of one request share it."""

    heard: tuple[int, ...]
    """Numbers of levels at which it can be heard."""

    error: str | None
    """Why it failed, in a line."""

    told: Mapping[str, Any]
    """Everything, as JSON."""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """Read what the service sent."""
        error = told["error"]
        names = ("id", "title", "state", "stage", "levels", "levels_wanted", "duration", "family")
        return cls(
            **{name: told[name] for name in names},
            seed=told["request"]["seed"],
            heard=tuple(one["levels"] for one in told["audio"]),
            error=None if error is None else error["detail"],
            told=told,
        )

    @property
    def is_live(self) -> bool:
        """Whether something is going to happen by itself."""
        return self.state in LIVE


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to a song."""

    number: int
    """Give it back as ``after`` to hear what came later."""

    type: str
    """"song", "progress", "piece" or "deleted"."""

    song: str
    data: Mapping[str, Any]


class Client:
    """A service, and one owner's songs in it. May be used by many threads."""

    def __init__(self, url: str, token: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """Remember where the service is; nothing is sent yet.

        Raises:
            RequestError: ``url`` is not one of HTTP.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RequestError(f"{url!r} is not the address of a service: http://HOST:PORT is")
        self._parts, self._token, self._timeout_s = parts, token, timeout_s

    def create(
        self,
        *,
        prompt: str = "",
        lyrics: str = "",
        duration: float | None = None,
        instrumental: bool = False,
        seed: int | None = None,
        n: int = 1,
        levels: int | None = None,
        title: str = "",
        key: str | None = None,
        **more: Any,
    ) -> list[RemoteSong]:
        """Ask for songs; when this returns, they are safely stored.

        Args:
            prompt: style tags.
            lyrics: words with section tags.
            duration: seconds; None: from the number of words.
            instrumental: no voice.
            seed: the same gives the same song; None: a new one.
            n: variants.
            levels: 2 is a sketch; None: all of the model's.
            title: what it is called.
            key: of this request: sent again with the same one, it is the same songs. None: a new
                one, with which a lost answer is asked for again.
            more: other fields of the request, as the API's document names them.

        Raises:
            ServiceError: it was refused, and why.
        """
        body = {
            "prompt": prompt, "lyrics": lyrics, "duration": duration, "instrumental": instrumental,
            "seed": seed, "n": n, "levels": levels, "title": title, **more,
        }  # fmt: skip
        headers = {"Idempotency-Key": secrets.token_hex(16) if key is None else key}
        told = self._json("POST", "/v1/songs", body, headers, tries=3)
        return [RemoteSong.of(one) for one in told["songs"]]

    def get(self, song: str) -> RemoteSong:
        """Return a song as far as it is."""
        return RemoteSong.of(self._json("GET", f"/v1/songs/{quote(song)}", tries=3))

    def songs(self, *, q: str = "", state: str | None = None, **more: Any) -> Iterator[RemoteSong]:
        """Go through songs, newest first; ``q`` are words of title, prompt or lyrics."""
        query = {"q": q, "limit": 100, **({"state": state} if state else {}), **more}
        while True:
            page = self._json("GET", f"/v1/songs?{urlencode(query)}", tries=3)
            yield from (RemoteSong.of(one) for one in page["songs"])
            if page["next"] is None:
                return
            query["cursor"] = page["next"]

    def act(self, song: str, action: str, **body: Any) -> RemoteSong:
        """Do something with a song: "cancel", "pause", "resume", or "refine" with ``levels``."""
        told = self._json("POST", f"/v1/songs/{quote(song)}/{quote(action)}", body or None)
        return RemoteSong.of(told)

    def variants(self, song: str, n: int = 1) -> list[RemoteSong]:
        """Ask for more songs of the same request."""
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        path = f"/v1/songs/{quote(song)}/variants"
        told = self._json("POST", path, {"n": n}, headers, tries=3)
        return [RemoteSong.of(one) for one in told["songs"]]

    def change(self, song: str, **values: Any) -> RemoteSong:
        """Change ``title`` or ``kept``."""
        return RemoteSong.of(self._json("PATCH", f"/v1/songs/{quote(song)}", values))

    def delete(self, song: str) -> None:
        """Delete a song with everything that was made of it."""
        self._fetch("DELETE", f"/v1/songs/{quote(song)}")

    def audio(self, song: str, *, format: str = "flac", levels: int | None = None) -> bytes:
        """Return a song's sound as a file."""
        query = {"format": format, **({} if levels is None else {"levels": levels})}
        return self._fetch("GET", f"/v1/songs/{quote(song)}/audio?{urlencode(query)}", tries=3)

    def file(self, song: str) -> bytes:
        """Return the .khala file."""
        return self._fetch("GET", f"/v1/songs/{quote(song)}/file", tries=3)

    def upload(self, data: bytes, *, title: str = "") -> RemoteSong:
        """Send a .khala file or a recording."""
        path = f"/v1/songs/import?{urlencode({'title': title})}"
        headers = {"Content-Type": "application/octet-stream"}
        told = json.loads(self._fetch("POST", path, data, headers))
        return RemoteSong.of(told["songs"][0])

    def events(self, song: str | None = None, *, after: int | None = None) -> Iterator[Event]:
        """Listen to what happens, until the connection ends; with ``after`` from then on."""
        told = self._listen(song, after)
        return (one for one in told if one.type not in ("hello", "quiet"))

    def _listen(self, song: str | None, after: int | None) -> Iterator[Event]:
        """Listen, and hear also when it begins ("hello") and that it goes on ("quiet")."""
        path = "/v1/events" if song is None else f"/v1/songs/{quote(song)}/events"
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        with self._sent("GET", path, None, headers) as answer:
            fields: dict[str, str] = {}
            for raw in answer:
                line = raw.decode().rstrip("\n")
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                    continue
                data = json.loads(fields.get("data", "{}"))
                yield Event(
                    number=int(fields.get("id", "0")), type=fields.get("event", "quiet"),
                    song=data.get("song", ""), data=data,
                )  # fmt: skip
                fields = {}

    def wait(self, song: str, *, timeout_s: float | None = None) -> RemoteSong:
        """Wait until nothing more happens to a song by itself, through lost connections.

        Raises:
            CapacityError: it took longer than ``timeout_s``.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                # first listen, then look: what happens in between is heard
                for event in self._listen(song, None):
                    if (
                        event.type in ("hello", "quiet")
                        or event.data.get("state", "working") not in LIVE
                    ):
                        found = self.get(song)
                        if not found.is_live:
                            return found
                    if _is_over(until_s):
                        break
            except (ServiceError, OSError, http.client.HTTPException) as error:
                if isinstance(error, ServiceError) and 0 < error.status < 500:
                    raise
                time.sleep(0.3)
            if _is_over(until_s):
                raise CapacityError(f"the song was not finished in {timeout_s:g} seconds")

    # ------------------------------------------------------------------------------------ http

    def _json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        tries: int = 1,
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        return json.loads(self._fetch(method, path, data, {**kind, **(headers or {})}, tries=tries))

    def _fetch(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        tries: int = 1,
    ) -> bytes:
        """Send a request and return the answer's body; one that may be sent again is."""
        for left in range(tries - 1, -1, -1):
            try:
                with self._sent(method, path, data, headers or {}) as answer:
                    return answer.read()
            except (OSError, http.client.HTTPException) as error:
                if not left:
                    raise ServiceError(
                        f"{self._parts.netloc} does not answer: {error}", status=0, code="no_answer"
                    ) from error
                time.sleep(0.5)
        raise AssertionError(tries)

    def _sent(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> _Answer:
        host, port = self._parts.hostname or "", self._parts.port
        connection: http.client.HTTPConnection
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                host, port, timeout=self._timeout_s, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        headers = {**headers, "Authorization": f"Bearer {self._token}"}
        connection.request(method, self._parts.path.rstrip("/") + path, data, headers)
        return _Answer(connection)


class _Answer:
    """An answer that is read; its connection is closed with it."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection

    def __enter__(self) -> http.client.HTTPResponse:
        answer = self._connection.getresponse()
        if answer.status >= 400:
            raise _refusal(answer)
        return answer

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _refusal(answer: http.client.HTTPResponse) -> ServiceError:
    """Read why something was refused."""
    try:
        told = json.loads(answer.read(100_000))
        return ServiceError(told["detail"], status=answer.status, code=told["code"])
    except (ValueError, KeyError, TypeError):
        return ServiceError(f"status {answer.status}", status=answer.status, code="http")


def _is_over(until_s: float | None) -> bool:
    return until_s is not None and time.monotonic() > until_s
