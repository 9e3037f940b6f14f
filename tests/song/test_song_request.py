"""What a user may ask for, and the one line they get when they may not."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from khala.errors import RequestError
from khala.song import SongRequest, check_text, clean_text

WORDS = {"lyrics": "[Verse]\nHello"}

BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"lyrics": ""}, ["lyrics", "empty", "5000"]),
    ({"lyrics": " \n\t "}, ["lyrics", "empty"]),
    ({"lyrics": "\u200b\ufeff"}, ["lyrics", "empty"]),
    ({"lyrics": "a" * 2**20}, ["lyrics", "1048576", "5000"]),
    ({"lyrics": "a" * 5_001}, ["lyrics", "5001", "5000"]),
    ({"lyrics": b"words"}, ["lyrics", "text"]),
    ({"lyrics": "one\ntwo\x07"}, ["lyrics", "U+0007", "line 2"]),
    ({"lyrics": "a\x00b"}, ["lyrics", "U+0000"]),
    ({"lyrics": "a\x85b"}, ["lyrics", "U+0085"]),
    ({"lyrics": "a\ud800b"}, ["lyrics", "U+D800"]),
    ({"lyrics": "la <|eot_id|> la"}, ["lyrics", "<|eot_id|>", "allowed"]),
    ({"lyrics": "la <|eot\u200b_id|> la"}, ["lyrics", "<|eot_id|>"]),
    ({"lyrics": "z" + "\u0335" * 9}, ["lyrics", "combining", "8"]),
    ({"lyrics": "words", "instrumental": True}, ["instrumental", "lyrics"]),
    ({"prompt": "<|begin_of_text|>"}, ["prompt", "<|begin_of_text|>"]),
    ({"prompt": "a" * 1_001}, ["prompt", "1001", "1000"]),
    ({"prompt": None}, ["prompt", "None", "text"]),
    ({"duration_s": 0}, ["duration_s", "0", "1 to 600"]),
    ({"duration_s": -1}, ["duration_s", "-1"]),
    ({"duration_s": float("nan")}, ["duration_s", "nan", "1 to 600"]),
    ({"duration_s": float("inf")}, ["duration_s", "inf"]),
    ({"duration_s": 1e9}, ["duration_s", "1000000000", "1 to 600"]),
    ({"duration_s": 10**5000}, ["duration_s", "bits"]),
    ({"duration_s": True}, ["duration_s", "True"]),
    ({"duration_s": "30"}, ["duration_s", "'30'"]),
    ({"levels": 1}, ["levels", "1", "2 to 64"]),
    ({"levels": 65}, ["levels", "65", "2 to 64"]),
    ({"levels": 8.0}, ["levels", "8.0", "whole"]),
    ({"seed": -1}, ["seed", "-1"]),
    ({"seed": 2**63}, ["seed", str(2**63)]),
    ({"seed": 10**5000}, ["seed", "bits"]),
    ({"temperature": 0.0}, ["temperature", "0.1 to 2"]),
    ({"top_k": 0}, ["top_k", "1 to 1024"]),
    ({"guidance_scale": 0.5}, ["guidance_scale", "0.5", "1 to 10"]),
    ({"guidance_scale": float("nan")}, ["guidance_scale", "nan", "1 to 10"]),
    ({"superres_top_k": 1025}, ["superres_top_k", "1 to 1024"]),
    ({"instrumental": 1}, ["instrumental", "true or false"]),
    ({"language": "English please"}, ["language", "'en'"]),
    ({"language": "<|x|>"}, ["language"]),
]


@pytest.mark.parametrize(("fields", "expected"), BAD, ids=range(len(BAD)))
def test_bad_input_gets_one_clear_line(fields: dict[str, Any], expected: list[str]) -> None:
    """A mistake would end in a traceback, or in a song that is not the one asked for."""
    with pytest.raises(RequestError) as caught:
        SongRequest(**{**WORDS, **fields})
    message = str(caught.value)
    assert message.isprintable(), "more than one line, or a control character"
    assert len(message) < 250
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    "fields",
    [
        {"duration_s": 1},
        {"duration_s": 600},
        {"levels": 2},
        {"levels": 64},
        {"seed": 2**63 - 1},
        {"lyrics": "a" * 5_000},
        {"prompt": "a" * 1_000},
        {"lyrics": "caf\u00e9 \u4f60\u597d \U0001f600\r\n\ttabs | < > and |> <|"},
        {"language": "zh-Hant"},
    ],
)
def test_limits_themselves_are_allowed(fields: dict[str, Any]) -> None:
    """Somebody who does what a message says must not meet it again."""
    SongRequest(**{**WORDS, **fields})


def test_instrumental_needs_no_lyrics() -> None:
    """A song without a voice could not be asked for."""
    assert SongRequest(instrumental=True).lyrics == ""


def test_whole_seconds_become_a_float() -> None:
    """The same request would have two digests, as 30 and as 30.0."""
    request = SongRequest(**WORDS, duration_s=30)
    assert isinstance(request.duration_s, float)
    assert request == SongRequest(**WORDS, duration_s=30.0)


requests = st.builds(
    SongRequest,
    lyrics=st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=50).filter(
        lambda text: bool(clean_text(text).strip()) and "<|" not in clean_text(text)
    ),
    duration_s=st.floats(1, 600),
    seed=st.integers(0, 2**63 - 1),
    levels=st.integers(2, 64),
)


@given(requests)
def test_dict_round_trip(request: SongRequest) -> None:
    """A saved request would come back as another one, and its song could not be replayed."""
    assert SongRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


def test_unknown_key_names_the_nearest() -> None:
    """A misspelt option would be ignored, and the user would wonder about the song."""
    with pytest.raises(RequestError, match="did you mean 'duration_s'"):
        SongRequest.from_dict({**WORDS, "duration": 20})
    with pytest.raises(RequestError, match="allowed are prompt, lyrics"):
        SongRequest.from_dict({**WORDS, "zzz\n": 20})


def test_a_request_is_frozen() -> None:
    """A request that changes after it was checked is not checked."""
    request = SongRequest(**WORDS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.seed = 3  # type: ignore[misc]


@given(st.text())
def test_clean_text_is_idempotent_and_check_never_crashes(text: str) -> None:
    """Text from anywhere in the world gives a song or one line, never a traceback."""
    try:
        check_text("lyrics", text)
        message = ""
    except RequestError as error:
        message = str(error)
    assert message == "" or message.isprintable()
    assert message or clean_text(clean_text(text)) == clean_text(text)


def test_importing_song_loads_no_torch() -> None:
    """The command line and the web front would take seconds to say what is wrong."""
    code = "import sys, khala.song; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
