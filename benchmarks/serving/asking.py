"""Many clients at once, without the cost of a client library: requests as bytes over sockets."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Load", "Reply", "post"]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back, and after how long."""

    status: int
    body: Any
    seconds: float


async def post(
    stream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    host: str,
    token: str,
    body: dict[str, Any],
    key: str | None = None,
) -> Reply:
    """Ask for songs over a connection that stays open.

    Raises:
        OSError, EOFError: the connection was lost.
    """
    reader, writer = stream
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/songs HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    )
    head += f"Idempotency-Key: {key}\r\n" if key is not None else ""
    started_s = time.perf_counter()
    writer.write(head.encode() + b"\r\n" + data)
    await writer.drain()
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    length = next(int(one.split(":")[1]) for one in lines if one.startswith("content-length"))
    content = await reader.readexactly(length)
    seconds = time.perf_counter() - started_s
    return Reply(status=int(lines[0].split()[1]), body=json.loads(content), seconds=seconds)


@dataclass(kw_only=True)
class Load:
    """Some clients that ask as fast as they are answered."""

    port: int
    token: str
    replies: list[Reply] = field(default_factory=list)

    async def run(self, clients: int, requests: int) -> float:
        """Send requests from so many clients; return how long it took."""
        left = iter(range(requests))
        started_s = time.perf_counter()
        await asyncio.gather(*(self._client(left) for _ in range(clients)))
        return time.perf_counter() - started_s

    async def _client(self, left: Any) -> None:
        stream = await asyncio.open_connection("127.0.0.1", self.port)
        for number in left:
            body = {"prompt": "pop", "lyrics": "la", "duration": 2.0, "seed": number}
            self.replies.append(await post(stream, f"127.0.0.1:{self.port}", self.token, body))
        stream[1].close()
