"""How long songs may be."""

from __future__ import annotations

import pytest

from khala.errors import RequestError
from khala.infer.limits import frame_bounds, longest_s

RATE_HZ = 44_100 / 2_048


def test_tolerance_of_five_percent() -> None:
    """Who asks for 30 s gets between 28.5 and 31.5 s."""
    bounds = frame_bounds(30.0, frame_rate_hz=RATE_HZ, num_prompt=50, positions=(4_096, 4_096))
    assert 28.5 <= bounds.least / RATE_HZ < 28.55
    assert 31.45 < bounds.most / RATE_HZ <= 31.5


def test_too_long_names_the_longest_that_works() -> None:
    """The longest duration the message names is one that works, and a second more is not."""
    positions = (2_048, 1_024)
    with pytest.raises(RequestError, match=r"up to (\d+\.\d) s") as info:
        frame_bounds(300.0, frame_rate_hz=RATE_HZ, num_prompt=100, positions=positions)
    limit_s = float(str(info.value).split("up to ")[1].split(" s")[0])
    assert limit_s == longest_s(frame_rate_hz=RATE_HZ, num_prompt=100, positions=positions)
    bounds = frame_bounds(limit_s, frame_rate_hz=RATE_HZ, num_prompt=100, positions=positions)
    assert bounds.most * 2 + 100 <= 2_048
    assert bounds.most + 100 <= 1_024
    with pytest.raises(RequestError):
        frame_bounds(limit_s + 1, frame_rate_hz=RATE_HZ, num_prompt=100, positions=positions)


def test_no_room_at_all_is_zero_seconds() -> None:
    """Lyrics that fill the whole context give a plain error and no negative number."""
    with pytest.raises(RequestError, match=r"up to 0\.0 s"):
        frame_bounds(1.0, frame_rate_hz=RATE_HZ, num_prompt=5_000, positions=(2_048, 1_024))
