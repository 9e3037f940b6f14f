"""Codes to a file and back: decoding in pieces, headroom, tags.

Shape letters: Q levels, T frames, C channels, N samples.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from khala import checkpoint
from khala.audio import read_audio, write_audio
from khala.codec import Codec
from khala.codec.crossfade import decode_crossfaded
from khala.errors import Cancelled, CheckpointError, RequestError
from khala.infer.events import Notice, OnEvent, ShouldStop, StageClock
from khala.infer.published import Published, published_mode
from khala.song import Song
from khala.song.request import MIN_LEVELS

__all__ = ["decode_song", "encode_file", "load_codec", "write_song"]

Wave = npt.NDArray[np.float32]

PEAK = 0.99
"""A song that would pass this is turned down as a whole; it is never clipped."""


def load_codec(song: Song, model: str | Path | None = None, device: str = "cpu") -> Codec:
    """The codec that can play ``song``: that of its own model, or of the one given.

    Raises:
        CheckpointError: no such model, damaged, or another codec than the song's.
    """
    folder = checkpoint.resolve_part(song.model if model is None else model, "codec")
    digest = checkpoint.digest(folder)
    if song.digests.get("codec", digest) != digest:
        raise CheckpointError(
            f"{folder} is not the codec that made this song: it needs the one with digest "
            f"{song.digests['codec'][:16]}"
        )
    return Codec.from_pretrained(folder, device=device)


def decode_song(
    codec: Codec,
    song: Song,
    *,
    levels: int | None = None,
    compat: str | None = None,
    on_event: OnEvent | None = None,
    should_stop: ShouldStop | None = None,
) -> Wave:
    """The sound of the first ``levels`` levels (default: all there are), float32 [C, N].

    A song that would peak above 0.99 is scaled down as a whole and a "scaled_down" notice sent. As
    published (``compat``; default: as the song was made) pieces are cross-faded, and samples beyond
    full scale are clipped and a "clipped" notice sent.

    Raises:
        RequestError: the song does not have that many levels, or ``compat`` is no known name.
        Cancelled: ``should_stop`` said so between two pieces.
    """
    levels = song.num_levels if levels is None else levels
    if not MIN_LEVELS <= levels <= song.num_levels:
        raise RequestError(
            f"levels is {levels}: this song can be decoded with {MIN_LEVELS} to {song.num_levels}"
        )
    published = published_mode(song.compat if compat is None else compat)
    codes_1QT = torch.from_numpy(song.codes_QT[:levels].astype(np.int64))[None]
    clock = StageClock(stage="codec", total=song.num_frames, on_event=on_event)
    if published is not None:
        return _as_published(codec, codes_1QT, published, clock, should_stop)
    parts = []
    # The codec's own pieces, so that a song decoded here equals the codec's decode bit for bit.
    for start in range(0, song.num_frames, codec.decode_frames):
        if should_stop is not None and should_stop():
            raise Cancelled("stopped while the sound was decoded")
        parts.append(_piece(codec, codes_1QT, start))
        clock.report(min(start + codec.decode_frames, song.num_frames))
    return _with_headroom(np.concatenate(parts, axis=1), on_event)


def _as_published(
    codec: Codec,
    codes_1QT: torch.Tensor,
    published: Published,
    clock: StageClock,
    should_stop: ShouldStop | None,
) -> Wave:
    """Decode with the published program's cross-fades, and clip as its 16-bit files do."""

    def on_chunk(num_frames: int) -> None:
        clock.report(num_frames)
        if num_frames < clock.total and should_stop is not None and should_stop():
            raise Cancelled("stopped while the sound was decoded")

    wave_1CN = decode_crossfaded(
        codec,
        codes_1QT.to(next(codec.parameters()).device),
        chunk_frames=published.chunk_frames,
        overlap_frames=published.overlap_frames,
        on_chunk=on_chunk,
    )
    wave_CN: Wave = wave_1CN[0].float().cpu().numpy()
    num_clipped = int((np.abs(wave_CN) > 1.0).sum())
    if num_clipped and clock.on_event is not None:
        message = f"as published: {num_clipped} samples beyond full scale were clipped"
        clock.on_event(Notice(code="clipped", message=message, value=float(num_clipped)))
    return wave_CN.clip(-1.0, 1.0)


def _piece(codec: Codec, codes_1QT: torch.Tensor, start: int) -> Wave:
    """Decode one piece with real context on both sides, and cut the context off."""
    stop = min(start + codec.decode_frames, codes_1QT.shape[2])
    low = max(0, start - codec.halo_frames)
    high = min(stop + codec.halo_frames, codes_1QT.shape[2])
    device = next(codec.parameters()).device
    wave_1CN = codec.decode(codes_1QT[..., low:high].to(device), chunk_frames=None)
    hop = codec.config.hop
    wave_CN: Wave = wave_1CN[0, :, (start - low) * hop : (stop - low) * hop].float().cpu().numpy()
    return wave_CN


def _with_headroom(wave_CN: Wave, on_event: OnEvent | None) -> Wave:
    peak = float(np.abs(wave_CN).max(initial=0.0))
    if not peak > PEAK:
        return wave_CN
    gain = PEAK / peak
    if on_event is not None:
        on_event(
            Notice(
                code="scaled_down",
                message=f"the song peaked at {peak:.2f} and was scaled by {gain:.3f}, not clipped",
                value=gain,
            )
        )
    return wave_CN * np.float32(gain)


def write_song(path: str | os.PathLike[str], song: Song, wave_CN: Wave) -> None:
    """Write the sound of ``song`` with tags that say what it is; the format by the ending."""
    if song.ended == "recording":
        tags = {"comment": "decoded by Khala from a recording"}
    else:
        comment = f"made with Khala (AI-generated), model {song.model}, seed {song.request.seed}"
        if song.compat != "none":
            comment += f", compat {song.compat}"
        tags = {"title": f"Khala song {song.request.seed}", "comment": comment}
    write_audio(path, wave_CN, sample_rate_hz=song.sample_rate_hz, metadata=tags)


def encode_file(
    codec: Codec,
    path: str | os.PathLike[str],
    *,
    model: str,
    digest: str,
    levels: int | None,
    compat: str = "none",
) -> Song:
    """The codes of a recording, as a song that nobody asked for.

    As published (``compat``), samples that do not fill a frame at the end are dropped.

    Raises:
        AudioError: not audio, too long, damaged, or as published shorter than a frame.
        RequestError: the codec does not have that many levels, or ``compat`` is no known name.
    """
    most = codec.config.quantizer.num_levels
    if levels is not None and not MIN_LEVELS <= levels <= most:
        raise RequestError(f"levels is {levels}: this codec has {MIN_LEVELS} to {most}")
    keep_tail = published_mode(compat) is None
    wave_CN = read_audio(path, sample_rate_hz=codec.config.sample_rate_hz)
    device = next(codec.parameters()).device
    codes_1QT = codec.encode(torch.from_numpy(wave_CN)[None].to(device), pad=keep_tail)
    return Song.from_recording(
        codes_1QT[0, :levels].cpu().numpy(),
        model=model,
        digests={"codec": digest},
        sample_rate_hz=codec.config.sample_rate_hz,
        hop=codec.config.hop,
        compat=compat,
    )
