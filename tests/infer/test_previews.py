"""Hearing a song before it is finished."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from khala import Codec, Khala, SongRequest
from khala.codec.stream import DecodeStream
from khala.errors import RequestError, TokenError
from khala.infer import Event, Preview, PreviewSettings, Progress

REQUEST = SongRequest(instrumental=True, duration_s=4.0, seed=7, levels=8)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Khala:
    return Khala.from_pretrained(tiny_model)


def previews_of(heard: list[Event]) -> tuple[list[Preview], list[Preview]]:
    every = [one for one in heard if isinstance(one, Preview)]
    return [one for one in every if not one.is_whole], [one for one in every if one.is_whole]


def test_pieces_of_a_stream_are_the_whole(tiny_model: Path) -> None:
    """A click at every border would be heard in each preview."""
    codec = Codec.from_pretrained(tiny_model)
    codes_QT = torch.randint(0, 1024, (8, 120), generator=torch.Generator().manual_seed(0))
    wanted = codec.decode(codes_QT[None])[0]
    stream, pieces, place = DecodeStream(codec), [], 0
    assert stream.read().shape[1] == 0
    for num in (1, 30, 2, 50, 7, 30):
        stream.add(codes_QT[:, place : place + num])
        place += num
        pieces.append(stream.read())
        assert sum(piece.shape[1] for piece in pieces) <= place * codec.config.hop
    pieces.append(stream.read(end=True))
    torch.testing.assert_close(torch.cat(pieces, dim=1), wanted, atol=1e-5, rtol=0)
    assert sum(piece.shape[1] > 0 for piece in pieces) > 3
    with pytest.raises(TokenError, match="8 levels"):
        stream.add(codes_QT[:2, :3])


def test_the_sketch_is_heard_while_it_is_written(model: Khala) -> None:
    """Whoever waits a minute for a song they would have stopped after a second is not served."""
    heard: list[Event] = []
    settings = PreviewSettings(first_s=0.5, every_s=1.0, levels=(4,))
    song = model.generate(REQUEST, on_event=heard.append, previews=settings)
    pieces, wholes = previews_of(heard)
    first = heard.index(pieces[0])
    written = [one.done for one in heard[:first] if isinstance(one, Progress)][-1]
    assert written <= 0.5 * model.frame_rate_hz + model.codec.halo_frames + 1
    assert len(pieces) >= 4
    wave_CN = np.concatenate([piece.wave_CN for piece in pieces], axis=1)
    sketch = model.codec.decode(torch.from_numpy(song.codes_QT[:2].astype(np.int64))[None])[0]
    np.testing.assert_allclose(wave_CN, sketch.numpy(), atol=1e-5)
    starts = np.cumsum([0, *(piece.wave_CN.shape[1] for piece in pieces[:-1])]) / 44_100
    np.testing.assert_allclose([piece.start_s for piece in pieces], starts)
    assert [(one.levels, one.wave_CN.shape) for one in wholes] == [(4, wave_CN.shape)]


def test_previews_change_nothing(model: Khala) -> None:
    """To listen must not be to compose."""
    heard: list[Event] = []
    plain = model.generate(REQUEST, on_event=heard.append)
    assert previews_of(heard) == ([], [])
    listened = model.generate(REQUEST, on_event=heard.append, previews=PreviewSettings())
    assert np.array_equal(plain.codes_QT, listened.codes_QT)
    assert not previews_of(heard)[1], "8 is what it ends with"


@pytest.mark.parametrize(
    "changes", [{"first_s": 0.0}, {"every_s": 61.0}, {"levels": (8, 4)}, {"levels": (2, 4)}]
)
def test_settings_that_make_no_sense(changes: dict[str, object]) -> None:
    """One line, and before any work."""
    with pytest.raises(RequestError, match="preview"):
        PreviewSettings(**changes)  # type: ignore[arg-type]
