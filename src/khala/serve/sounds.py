"""Sound and other files of songs, as they are given out: formats, parts, and their credentials."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from dataclasses import dataclass, field

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from khala.serve.files import Files
from khala.serve.ledger import Ledger, Row
from khala.serve.problems import Missing, problem
from khala.serve.sealing import Sealer
from khala.song import Song

__all__ = ["MEDIA", "Sounds", "part"]

MEDIA = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".opus": "audio/ogg",
    ".khala": "application/vnd.khala",
    ".png": "image/png",
    ".json": "application/json",
    ".c2pa": "application/c2pa",
}

MOST_AT_ONCE = 2
"""Files that are encoded at a time: each has the whole song in memory."""

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


@dataclass(frozen=True, kw_only=True)
class Sounds:
    """Makes the formats that were not stored, once each."""

    ledger: Ledger
    files: Files
    sealer: Sealer
    _busy: threading.Semaphore = field(
        default_factory=lambda: threading.Semaphore(MOST_AT_ONCE), repr=False
    )

    def audio(self, row: Row, *, ending: str, levels: int | None) -> tuple[bytes, str]:
        """Return a song's sound and its digest.

        Raises:
            Missing: it cannot be heard yet, or not with these levels.
        """
        song, known = row["id"], self.ledger.files(row["id"])
        heard = sorted(
            one["levels"] for name, one in known.items() if re.fullmatch(r"audio-\d+\.flac", name)
        )
        if not heard:
            raise Missing("this song cannot be heard yet")
        chosen = heard[-1] if levels is None else levels
        if chosen not in heard:
            there = ", ".join(str(one) for one in heard)
            raise Missing(f"there is no sound of {chosen} levels of this song: {there}")
        stem = f"audio-{chosen:02d}"
        if f"{stem}{ending}" in known:
            return self._read(row, f"{stem}{ending}", known)
        master, _ = self._read(row, f"{stem}.flac", known)
        with self._busy:
            data, sidecar = self._encoded(row, master, ending, chosen)
            for name, content in ((f"{stem}{ending}", data), (f"{stem}{ending}.c2pa", sidecar)):
                if content is not None:
                    self._store(song, name, content, chosen)
        return data, hashlib.sha256(data).hexdigest()

    def _store(self, song: str, name: str, data: bytes, levels: int) -> None:
        self.files.write(song, name, data)
        digest = hashlib.sha256(data).hexdigest()
        file = {"name": name, "bytes": len(data), "sha256": digest, "levels": levels}
        self.ledger.add_file(song, file)

    def file(self, row: Row, name: str) -> tuple[bytes, str]:
        """Return a stored file and its digest.

        Raises:
            Missing: there is none.
        """
        return self._read(row, name, self.ledger.files(row["id"]))

    def _read(self, row: Row, name: str, known: dict[str, Row]) -> tuple[bytes, str]:
        if name not in known:
            raise Missing("this song has no such file (yet)")
        try:
            return self.files.read(row["id"], name), known[name]["sha256"]
        except FileNotFoundError:
            raise Missing("this file was removed just now") from None

    def _encoded(
        self, row: Row, master: bytes, ending: str, levels: int
    ) -> tuple[bytes, bytes | None]:
        import soundfile

        with soundfile.SoundFile(io.BytesIO(master)) as file:
            rate_hz = file.samplerate
            wave_CN = np.ascontiguousarray(file.read(dtype="float32", always_2d=True).T)
        song = Song.from_bytes(self.files.read(row["id"], "song.khala"))
        return self.sealer.encode(
            wave_CN, ending, sample_rate_hz=rate_hz, row=row, levels=levels, digests=song.digests,
            is_recording=song.ended == "recording",
        )  # fmt: skip


def part(request: Request, data: bytes, digest: str, headers: dict[str, str]) -> Response:
    """Answer with a file, or with the part that was asked for (RFC 9110, one range).

    Several ranges, and a range of an older file, are answered with the whole.
    """
    etag = f'"{digest[:32]}"'
    media = headers.pop("Content-Type")
    headers |= {"Accept-Ranges": "bytes", "ETag": etag, "Cache-Control": "private, no-cache"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    same = request.headers.get("if-range", etag) == etag
    found = _RANGE.fullmatch(wanted.strip()) if wanted is not None and same else None
    if found is None or (not found[1] and not found[2]):
        return Response(data, headers=headers, media_type=media)
    first, last = found[1], found[2]
    start = int(first) if first else max(len(data) - int(last), 0)
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= stop or (not first and int(last) == 0):
        answer = problem(416, "bad_range", f"this file has {len(data)} bytes")
        answer.headers["Content-Range"] = f"bytes */{len(data)}"
        return answer
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return Response(data[start:stop], 206, headers, media)


def attachment(title: str, song: str, ending: str) -> str:
    """Return a Content-Disposition that no title can break (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9 ._-]+", "", title).strip(" .")[:80] or song[:8]
    quoted = "".join(
        c if c.isascii() and c.isalnum() else "".join(f"%{b:02X}" for b in c.encode())
        for c in title[:120]
    )
    extended = f"; filename*=UTF-8''{quoted}{ending}" if quoted else ""
    return f'attachment; filename="{plain}{ending}"{extended}'
