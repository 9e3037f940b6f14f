"""Prompts as the published application writes them, for comparison with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_prompt import BYTES, NANO, PUBLISHED, render

from khala.errors import RequestError
from khala.song import SongRequest
from khala.tokens.published import published_minutes, published_prompt

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "goldens" / "text.json").read_text(encoding="utf-8")
)


def asked(api: dict[str, Any]) -> SongRequest:
    """The request of a user who sends this to the published application, within our limits."""
    is_natural = api["prompt_mode"] == "natural"
    return SongRequest(
        prompt=api.get("prompt", "") if is_natural else api.get("tags", ""),
        lyrics="" if api["mode"] == "instrumental" else api["lyrics"],
        instrumental=api["mode"] == "instrumental",
        duration_s=min(max(60.0 * api["duration"], 1.0), 600.0),
    )


@pytest.mark.parametrize("case", GOLDEN["requests"], ids=range(len(GOLDEN["requests"])))
def test_prompts_of_the_published_application(case: dict[str, Any]) -> None:
    """A comparison with other words in the prompt compares the prompts, not the programs."""
    api = case["api_request"]
    request = asked(api)
    assert published_minutes(request.duration_s) == case["worker_params"]["duration"]
    assert render(published_prompt(request, PUBLISHED, BYTES)) == case["backbone_prompt"]
    is_tags = api["prompt_mode"] == "tags"
    fine = published_prompt(request, PUBLISHED, BYTES, describe=is_tags)
    assert render(fine) == case["superres_prompt"]


def test_lyrics_are_not_brought_into_our_form() -> None:
    """The default reads `(verse)` as a section; the published application sings it."""
    request = SongRequest(lyrics=" (verse)\n\n\nHi  you ", prompt=" a\nb ", duration_s=60)
    text = render(published_prompt(request, PUBLISHED, BYTES))
    assert text == (
        "<|begin_of_text|>a\nb<|eom_id|><|eom_id|><|start_header_id|><|end_header_id|>(verse)"
        "<|end_header_id|><|end_header_id|><|end_header_id|>Hi  you<|eom_id|>"
        "<|reserved_special_token_1|><|eot_id|><|python_tag|>"
    )


@pytest.mark.parametrize(
    ("duration_s", "minutes"),
    [(1, 1), (30, 1), (89.9, 1), (90, 2), (150, 3), (570, 10), (600, 10)],
)
def test_whole_minutes(duration_s: float, minutes: int) -> None:
    """The published application has no words for seconds: who asks for 30 is given a minute."""
    assert published_minutes(duration_s) == minutes


def test_minutes_that_a_model_cannot_name() -> None:
    """The bundled model ends at three minutes, and says so instead of asking for less."""
    with pytest.raises(RequestError, match="up to 180 seconds"):
        published_prompt(SongRequest(lyrics="a", duration_s=240), NANO, BYTES)
