"""Sound becomes a file in one place, so that none leaves without its tags and credentials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from khala.audio import encode_audio
from khala.serve.ledger import Row
from khala.serve.made import Made
from khala.serve.provenance import EMBEDDED, Signer
from khala.serve.settings import Settings

__all__ = ["Sealer", "headroom"]

Wave = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Sealer:
    """Writes sound files that say what they are."""

    signer: Signer

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Read the key of a service, or make it.

        Raises:
            ConfigError: it cannot be used.
        """
        if settings.certificate is not None and settings.key is not None:
            signer = Signer.from_files(Path(settings.certificate), Path(settings.key))
        else:
            signer = Signer.load_or_make(settings.data / "signing")
        return cls(signer=signer)

    def encode(
        self,
        wave_CN: Wave,
        ending: str,
        *,
        sample_rate_hz: int,
        row: Row,
        levels: int,
        digests: Mapping[str, str],
        is_recording: bool = False,
    ) -> tuple[bytes, bytes | None]:
        """Return a sound file, and its credentials if the format cannot hold them.

        Args:
            wave_CN: the sound; within full scale.
            ending: of the format.
            sample_rate_hz: of the sound.
            row: of the song.
            levels: that are heard.
            digests: of the models that made it.
            is_recording: it was not generated, only encoded.
        """
        made = Made(
            song_id=row["id"],
            model=row["model"],
            digests=digests,
            made_at=datetime.now(UTC),
            levels=levels,
            seed=row["request"]["seed"],
            title=row["title"],
            from_recording=is_recording,
        )
        data = encode_audio(
            f"song{ending}", wave_CN, sample_rate_hz=sample_rate_hz, metadata=made.tags()
        )
        if ending in EMBEDDED:
            return self.signer.sign(data, ending, made), None
        return data, self.signer.sidecar(data, made)


def headroom(wave_CN: Wave) -> np.float32:
    """Return the gain at which a sound does not pass full scale, at most 1."""
    peak = float(np.abs(wave_CN).max(initial=0.0))
    return np.float32(1.0 if peak <= 1.0 else 0.99 / peak)
