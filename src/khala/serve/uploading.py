"""Files that are sent: counted while they come, looked at without trust, and kept as songs."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from khala.audio import encode_audio
from khala.errors import RequestError
from khala.serve.ledger import Row
from khala.serve.making import UPLOAD
from khala.serve.orders import Order, new_id
from khala.serve.sealing import headroom
from khala.serve.service import Service
from khala.serve.uploads import decode_upload
from khala.song import Song, SongRequest, check_text

__all__ = ["Upload", "keep", "receive"]

SONG_FILE = b'{"__metadata__":{"sha256":"'
"""What a .khala file has after its first eight bytes."""

RATE_HZ = 44_100
LONGEST_S = 1_200


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """What was sent: a song, or a recording that becomes one."""

    request: SongRequest
    levels: int
    """That it has; 0 for a recording."""

    name: str
    data: bytes


async def receive(request: Request, service: Service) -> Upload:
    """Read a body into a file of our own naming, and find out what it is.

    Raises:
        RequestError, AudioError, CapacityError: it is nothing that can be taken.
    """
    service.check_disk()
    with tempfile.TemporaryDirectory(prefix="upload-", dir=service.settings.data) as folder:
        path, num, head = Path(folder) / "sent", 0, b""
        with path.open("wb") as file:
            async for chunk in request.stream():
                num += len(chunk)
                head = (head + chunk)[:64] if len(head) < 64 else head
                await run_in_threadpool(file.write, chunk)
        if num == 0:
            raise RequestError("the body is empty: send a .khala file or a recording")
        if head[8:].startswith(SONG_FILE):
            return _song(await run_in_threadpool(path.read_bytes))
        wave_CN = await run_in_threadpool(decode_upload, path, workdir=Path(folder))
        data = await run_in_threadpool(
            # what a lossy file decodes to may pass full scale: it is turned down as a whole
            lambda: encode_audio(UPLOAD, wave_CN * headroom(wave_CN), sample_rate_hz=RATE_HZ)
        )
    duration_s = min(max(wave_CN.shape[1] / RATE_HZ, 1.0), 600.0)
    wanted = SongRequest(instrumental=True, duration_s=duration_s, levels=service.all_levels)
    return Upload(request=wanted, levels=0, name=UPLOAD, data=data)


def _song(data: bytes) -> Upload:
    song = Song.from_bytes(data)
    # the file is whole, and yet anybody may have sealed it: its texts are shown and stored here
    for text in (song.model, song.lyrics, song.created, *song.digests, *song.digests.values()):
        check_text("a text of this song", text)
    if song.num_levels < 2:
        raise RequestError("this song has one level: at least 2 are needed")
    if song.duration_s > LONGEST_S:
        raise RequestError(
            f"this song has {song.duration_s:.0f} seconds: at most {LONGEST_S} are taken"
        )
    wanted = dataclasses.replace(song.request, levels=song.num_levels)
    return Upload(request=wanted, levels=song.num_levels, name="song.khala", data=data)


def keep(service: Service, owner: str, upload: Upload, title: str) -> list[Row]:
    """Store what was sent and have it made into a song; return its row."""
    song, digest = new_id(), hashlib.sha256(upload.data).hexdigest()
    service.files.write(song, upload.name, upload.data)
    file = {
        "name": upload.name, "bytes": len(upload.data), "sha256": digest, "levels": upload.levels,
    }  # fmt: skip
    order = Order(
        owner=owner, requests=[upload.request], titles=[title], ids=[song], levels=upload.levels,
        files=[file],
    )  # fmt: skip
    try:
        return service.submit(order)
    except BaseException:
        service.files.remove(song)
        raise
