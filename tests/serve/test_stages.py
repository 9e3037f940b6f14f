"""What a song still needs."""

from __future__ import annotations

import pytest

from khala.serve.stages import Stage, stages_of


def labels(**state: object) -> list[str]:
    return [stage.label for stage in stages_of(**state)]  # type: ignore[arg-type]


def test_a_new_song_is_heard_early_and_often() -> None:
    """Waiting in silence for the last level is what everybody else makes people do."""
    assert labels(levels=0, wanted=64, heard=set()) == [
        "sketch-2", "sound-2", "detail-8", "sound-8", "detail-16", "detail-24", "detail-32",
        "sound-32", "detail-40", "detail-48", "detail-56", "detail-64", "sound-64",
    ]  # fmt: skip


@pytest.mark.parametrize("cut", range(13))
def test_what_is_done_is_not_done_again(cut: int) -> None:
    """A crash, a pause or a refinement would otherwise cost all that was there."""
    whole = stages_of(levels=0, wanted=64, heard=set())
    levels = max((one.levels for one in whole[:cut] if one.kind != "sound"), default=0)
    heard = {one.levels for one in whole[:cut] if one.kind == "sound"}
    assert stages_of(levels=levels, wanted=64, heard=heard) == whole[cut:]


def test_odd_numbers_of_levels_are_reached_exactly() -> None:
    """Who asks for 5 levels gets 5, and a song of 5 goes on to 20."""
    assert labels(levels=0, wanted=5, heard=set()) == ["sketch-2", "sound-2", "detail-5", "sound-5"]
    assert labels(levels=5, wanted=20, heard={2, 5}) == [
        "detail-8", "sound-8", "detail-16", "detail-20", "sound-20",
    ]  # fmt: skip
    assert labels(levels=0, wanted=2, heard=set()) == ["sketch-2", "sound-2"]
    assert labels(levels=64, wanted=64, heard={64}) == []


def test_a_recording_is_encoded_and_heard() -> None:
    """Nobody writes a sketch of what is there."""
    assert labels(levels=0, wanted=64, heard=set(), is_recording=True) == ["encode-64", "sound-64"]
    assert Stage.from_dict(Stage(kind="sound", levels=3).to_dict()) == Stage(kind="sound", levels=3)
