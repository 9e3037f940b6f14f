"""A song: request, codes and the digests of the models that made it.

Enough to decode it, to refine it to more levels and to make it again bit for bit.

Shape letters, this file only: Q residual levels, T codec frames, C channels, N samples.
"""

from __future__ import annotations

import io
import os
import uuid
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from khala.errors import AudioError, CheckpointError, RequestError, TokenError
from khala.song.file import CODEBOOK_SIZE, MAX_FRAMES, DamageError, read_file, to_bytes
from khala.song.request import (
    MAX_DURATION_S,
    MAX_LEVELS,
    MIN_DURATION_S,
    MIN_LEVELS,
    SongRequest,
    check_integer,
    shown,
)

if TYPE_CHECKING:
    from khala.codec import Codec

ENDINGS = ("end_token", "limit", "cancelled", "recording")
"""Why a song ends where it does; "recording" was encoded from audio, not generated."""

DTYPES = ("float32", "mixed", "bfloat16", "float16", "int8")
"""What the language models can compute in. "mixed" is float32, with super-resolution's products in
bfloat16; "int8" reads the backbone's matrices in 8 bits while tokens are written, and is otherwise
bfloat16 for weights stored in 16 bits, and for others "mixed" where bfloat16 is fast or float32."""

COMPAT_MODES = ("none", "published", "published-natural")
"""Whose behaviour: ours, or that of the published program with a prompt of tags, or with one that
is a description (docs/published.md)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Song:
    """A request, the codes it became and who made them.

    Raises:
        TokenError: codes that are not Q x T integers in [0, 1024).
        RequestError: another field that no song can have.
    """

    request: SongRequest
    codes_QT: npt.NDArray[np.int16]
    """Codes of the levels that are finished, coarsest first; any integer type is accepted."""

    seed: int
    """Seed of this song: ``request.seed`` unless several songs were asked for at once."""

    model: str
    """Name or folder of the model."""

    digests: dict[str, str] = field(default_factory=dict)
    """Digest of each model folder that took part, by its name: codec, backbone, superres; and
    "DIGEST@STRENGTH" of the adapters in it, by backbone.lora and superres.lora."""

    sample_rate_hz: int = 44_100
    hop: int = 2_048
    """Samples per frame."""

    lyrics: str = ""
    """The lyrics as the model read them, normalised."""

    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """When, in ISO 8601; empty where two runs must write the same file."""

    ended: str = "limit"
    """Why it ends where it does: one of ``ENDINGS``; "recording" was encoded, not generated."""

    dtype: str = "float32"
    """What the language models computed in, one of ``DTYPES``: other rounding, other codes.
    Written to the file only where it is not "float32"."""

    compat: str = "none"
    """Whose behaviour made it, one of ``COMPAT_MODES``; refining, decoding and replaying follow it.
    Written to the file only where it is not "none"."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes_QT", _checked_codes(self.codes_QT))
        check_integer("seed", self.seed, 0, 2**63 - 1)
        check_integer("sample_rate_hz", self.sample_rate_hz, 1, 1_000_000)
        check_integer("hop", self.hop, 1, 1_000_000)
        if self.ended not in ENDINGS:
            raise RequestError(f"ended is {shown(self.ended)}: one of {', '.join(ENDINGS)}")
        if self.dtype not in DTYPES:
            raise RequestError(f"dtype is {shown(self.dtype)}: one of {', '.join(DTYPES)}")
        if self.compat not in COMPAT_MODES:
            raise RequestError(f"compat is {shown(self.compat)}: one of {', '.join(COMPAT_MODES)}")
        if not isinstance(self.digests, dict):
            raise RequestError("digests of a song must be a table of text")
        texts = [self.model, self.lyrics, self.created, *self.digests, *self.digests.values()]
        if not all(isinstance(text, str) for text in texts):
            raise RequestError("model, lyrics, created and digests of a song must be text")

    @classmethod
    def from_recording(
        cls,
        codes_QT: npt.NDArray[Any],
        *,
        model: str,
        digests: dict[str, str],
        sample_rate_hz: int = 44_100,
        hop: int = 2_048,
        compat: str = "none",
    ) -> Self:
        """Wrap the codes of a recording.

        Nobody asked for it: the request only states its levels and its length, within what a
        request may hold, and ``ended`` says what it is. The codes keep their whole length.
        """
        duration_s = codes_QT.shape[-1] * hop / sample_rate_hz
        request = SongRequest(
            instrumental=True,
            duration_s=min(max(duration_s, MIN_DURATION_S), MAX_DURATION_S),
            levels=max(codes_QT.shape[0], MIN_LEVELS),
        )
        return cls(
            request=request,
            codes_QT=codes_QT,
            seed=0,
            model=model,
            digests=digests,
            sample_rate_hz=sample_rate_hz,
            hop=hop,
            ended="recording",
            compat=compat,
        )

    @property
    def num_levels(self) -> int:
        """Levels that are finished."""
        return int(self.codes_QT.shape[0])

    @property
    def num_frames(self) -> int:
        """Codec frames."""
        return int(self.codes_QT.shape[1])

    @property
    def duration_s(self) -> float:
        """Length of the sound in seconds."""
        return self.num_frames * self.hop / self.sample_rate_hz

    def to_bytes(self) -> bytes:
        """Return the content of a song file.

        Raises:
            AudioError: the song is larger than a file may be.
        """
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        codes_QT = values.pop("codes_QT")
        if self.dtype == "float32":
            del values["dtype"]
        if self.compat == "none":
            del values["compat"]
        return to_bytes(values | {"request": self.request.to_dict()}, codes_QT)

    def with_levels(self, levels: int) -> Self:
        """Return the same song with its first levels only.

        Raises:
            RequestError: more than are finished.
        """
        check_integer("levels", levels, 1, self.num_levels)
        return replace(self, codes_QT=self.codes_QT[:levels])

    def save(self, path: str | Path) -> Path:
        """Write the song file; a reader sees the old file or the new one, never half of one.

        Raises:
            AudioError: the song is larger than a file may be, or the place cannot be written.
        """
        path, content = Path(path), self.to_bytes()
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise AudioError(f"cannot write {path}: {error.strerror}") from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a song file; sizes are checked before anything is read, every byte after.

        Raises:
            AudioError: missing, too large, cut short, changed, or no song file at all.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                return cls._read(file, os.fstat(file.fileno()).st_size, str(path))
        except OSError as error:
            raise AudioError(f"cannot read {path}: {error.strerror}") from error

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read the content of a song file; see `load`."""
        return cls._read(io.BytesIO(content), len(content), "this")

    @classmethod
    def _read(cls, file: BinaryIO, num_bytes: int, name: str) -> Self:
        try:
            values, codes_QT = read_file(file, num_bytes)
            request = values.pop("request")
            if set(request) != {one.name for one in fields(SongRequest)}:
                raise DamageError("its request is not complete")
            values.setdefault("dtype", "float32")
            values.setdefault("compat", "none")
            if set(values) != {one.name for one in fields(cls)} - {"codes_QT", "request"}:
                raise DamageError("its fields are not those of a song")
            return cls(request=SongRequest.from_dict(request), codes_QT=codes_QT, **values)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise AudioError(f"{name} is not a song file: its header is not valid") from error
        except (DamageError, RequestError, TokenError) as error:
            raise AudioError(f"{name} is not a whole song file: {error}") from error

    def waveform(
        self, levels: int | None = None, codec: Codec | None = None
    ) -> npt.NDArray[np.float32]:
        """Decode to sound, wave_CN float32, from the first ``levels`` levels (all by default).

        Args:
            levels: 1 to ``num_levels``.
            codec: the codec to use; by default the one of ``model``, which must still be the one
                that this song was made with.

        Raises:
            RequestError: more levels than are finished.
            CheckpointError: the model is not here, or its codec is another one.
        """
        levels = self.num_levels if levels is None else levels
        check_integer("levels", levels, 1, self.num_levels)
        import torch

        from khala.codec import Codec

        if codec is None:
            from khala.checkpoint import digest, resolve_part

            folder = resolve_part(self.model, "codec")
            if self.digests.get("codec", digest(folder)) != digest(folder):
                raise CheckpointError(
                    f"the codec of model {self.model!r} is not the one that made this song: "
                    f"it needs the codec with digest {self.digests['codec']}"
                )
            codec = Codec.from_pretrained(folder)
        codes_1QT = torch.from_numpy(self.codes_QT[:levels].astype(np.int64))[None]
        codes_1QT = codes_1QT.to(next(codec.parameters()).device)
        with torch.inference_mode():
            wave_1CN = codec.decode(codes_1QT)
        wave_CN: npt.NDArray[np.float32] = wave_1CN[0].float().cpu().numpy()
        return wave_CN


def _checked_codes(codes_QT: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    is_table = isinstance(codes_QT, np.ndarray) and codes_QT.ndim == 2
    if not is_table or codes_QT.dtype.kind not in "iu":
        raise TokenError("codes of a song must be a table of integers, levels x frames")
    num_levels, num_frames = codes_QT.shape
    if not (1 <= num_levels <= MAX_LEVELS and 1 <= num_frames <= MAX_FRAMES):
        raise TokenError(
            f"codes are {num_levels} levels x {num_frames} frames: 1 to {MAX_LEVELS} levels "
            f"and 1 to {MAX_FRAMES} frames are allowed"
        )
    low, high = int(codes_QT.min()), int(codes_QT.max())
    if low < 0 or high >= CODEBOOK_SIZE:
        raise TokenError(f"codes lie in [{low}, {high}]: they must lie in [0, {CODEBOOK_SIZE})")
    return np.ascontiguousarray(codes_QT, dtype=np.int16)
