"""Where sections are found in a picture of a song."""

from __future__ import annotations

import numpy as np
import pytest

from khala.infer.sections import find_stretches


def test_borders_are_found_where_the_sound_changes() -> None:
    """The lines in the picture stand where one hears the chorus begin."""
    rng = np.random.default_rng(0)
    mel = rng.normal(size=(20, 600)) * 0.3
    mel[:5, :210] += 2.0
    mel[5:10, 210:390] += 2.0
    mel[10:15, 390:] += 2.0
    found = find_stretches(mel, 60.0, ["Verse", "Chorus", "Outro"], [1 / 3] * 3)
    assert [one.name for one in found] == ["Verse", "Chorus", "Outro"]
    assert found[0].start_s == 0.0
    assert found[0].end_s == found[1].start_s == pytest.approx(21.0, abs=0.6)
    assert found[1].end_s == found[2].start_s == pytest.approx(39.0, abs=0.6)
    assert found[2].end_s == 60.0


def test_even_sound_is_cut_by_the_share_of_words() -> None:
    """Without any change in the sound the picture shows what the lyrics suggest."""
    found = find_stretches(np.zeros((20, 600)), 60.0, ["A", "B"], [0.25, 0.75])
    assert found[0].end_s == pytest.approx(15.0, abs=0.6)


@pytest.mark.parametrize("duration_s", [0.1, 1.0, 3.0])
def test_more_sections_than_sound(duration_s: float) -> None:
    """A song stopped after a second still has a picture."""
    found = find_stretches(np.zeros((20, 9)), duration_s, list("ABCDEFGH"), [1 / 8] * 8)
    assert 1 <= len(found) <= 6
    assert found[-1].end_s == pytest.approx(duration_s)
