"""A request becomes the ids that the models were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from khala.errors import RequestError, TokenError
from khala.song import SongRequest
from khala.tokens import TextTokenizer, build_prompt, nano_layout, published_layout
from khala.tokens.published import REPLACEMENTS, clamp_published, clean_published

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "goldens" / "text.json").read_text(encoding="utf-8")
)
BYTES = TextTokenizer.bytes()
NANO = nano_layout()
PUBLISHED = published_layout()
LANGUAGE_CODES = {"English": "en", "Instrumental": "en", "": "en"}


def special_strings() -> dict[int, str]:
    """The published names of the ids that a prompt may hold."""
    names = {
        128_000: "begin_of_text",
        128_006: "start_header_id",
        128_007: "end_header_id",
        128_008: "eom_id",
        128_009: "eot_id",
        128_010: "python_tag",
    }
    names |= {
        id_: f"reserved_special_token_{n}" for n, id_ in enumerate(PUBLISHED.control.durations)
    }
    return {id_: f"<|{name}|>" for id_, name in names.items()}


def render(ids: list[int]) -> str:
    """Write published ids as the string they stand for."""
    special = special_strings()
    text = b"".join(special[one].encode() if one in special else bytes([one]) for one in ids)
    return text.decode()


def published_prompt(worker: dict[str, Any], prompt: str, *, use_language: bool = False) -> str:
    """Our prompt for a request of the published application's worker, as a string."""
    instrumental = worker["language"] == "Instrumental"
    request = SongRequest(
        prompt=prompt,
        lyrics="" if instrumental else worker["lyrics"],
        duration_s=60 * worker["duration"],
        instrumental=instrumental,
        language=LANGUAGE_CODES[worker["language"]],
    )
    ids = build_prompt(request, PUBLISHED, BYTES, max_tokens=4096, use_language=use_language)
    return render(ids)


def cases() -> list[dict[str, Any]]:
    requests = [{**case, "worker": case["worker_params"]} for case in GOLDEN["requests"]]
    return requests + [{**case, "worker": case["worker_request"]} for case in GOLDEN["direct"]]


@pytest.mark.parametrize("case", cases(), ids=range(len(cases())))
def test_published_prompts(case: dict[str, Any]) -> None:
    """Published weights read a prompt in another order as another song, or as noise."""
    worker = case["worker"]
    mode = worker["superres_text_mode"]
    use_language = mode == "separate"
    described = [worker["description"].strip(), worker["tags"].strip(), worker["genre"]]
    metadata = next((text for text in described if text), "")
    assert published_prompt(worker, metadata, use_language=use_language) == case["backbone_prompt"]
    if mode == "separate" or (mode.endswith("no_description") and worker["description"]):
        metadata = worker["genre"]
    assert published_prompt(worker, metadata, use_language=use_language) == case["superres_prompt"]


def test_nano_prompt_id_by_id() -> None:
    """The bundled model was trained on exactly this order."""
    request = SongRequest(prompt=" pop,\npiano ", lyrics="(verse)\nHi", duration_s=30)
    assert build_prompt(request, NANO, BYTES, max_tokens=100) == [
        256,
        *(*b"pop, piano", 260),
        260,
        258,
        *(259, *b"[Verse]"),
        *(259, *b"Hi"),
        260,
        *(263 + 15, 261, 262),
    ]
    request = SongRequest(prompt="pop", instrumental=True, duration_s=30)
    expected = [256, *b"pop", 260, *b"Instrumental", 260, 263 + 15, 261, 262]
    assert build_prompt(request, NANO, BYTES, max_tokens=100) == expected


def test_language_slot() -> None:
    """A model trained with the language in its slot must be told it."""
    for code, name in (("en-GB", "English"), ("yue", "Cantonese"), ("fi", "fi")):
        request = SongRequest(lyrics="la", language=code)
        ids = build_prompt(request, NANO, BYTES, max_tokens=100, use_language=True)
        assert ids[2 : 3 + len(name)] == [*name.encode(), 260]


def test_too_long_names_limit_and_length() -> None:
    """Cut lyrics are a song without its last chorus, and nobody was told."""
    request = SongRequest(lyrics="a" * 1000, prompt="pop")
    length = len(build_prompt(request, NANO, BYTES, max_tokens=2000))
    assert len(build_prompt(request, NANO, BYTES, max_tokens=length)) == length
    with pytest.raises(
        RequestError, match=f"{length} tokens long: at most {length - 1} are"
    ) as one:
        build_prompt(request, NANO, BYTES, max_tokens=length - 1)
    assert "1003 tokens of lyrics and 3 of description" in str(one.value)


def test_too_long_a_song_names_the_limit() -> None:
    """A duration the model has no word for would become another one."""
    with pytest.raises(RequestError, match=r"181.*up to 180 seconds"):
        build_prompt(SongRequest(lyrics="a", duration_s=181), NANO, BYTES, max_tokens=100)


@given(st.text(max_size=40), st.text(min_size=1, max_size=80))
def test_user_text_never_becomes_control(prompt: str, lyrics: str) -> None:
    """A user who writes the right letters could end the prompt, or sing another's words."""
    try:
        request = SongRequest(prompt=prompt, lyrics=lyrics)
    except RequestError:
        return
    ids = build_prompt(request, NANO, BYTES, max_tokens=2000)
    control = [one for one in ids if one >= NANO.first_control_id]
    num_lines = control.count(NANO.control.end_line)
    assert control == [256, 260, 260, 258, *[259] * num_lines, 260, 263 + 15, 261, 262]


def test_tokenizer_of_another_model_is_refused() -> None:
    """Ids of text that this model reads as control would steer the song."""

    class Wrong(TextTokenizer):
        def encode(self, text: str) -> list[int]:
            return [300] if text else []

    wrong = Wrong.bytes()
    with pytest.raises(TokenError, match="another model"):
        build_prompt(SongRequest(lyrics="a"), NANO, wrong, max_tokens=100)


@pytest.mark.parametrize(("given_text", "expected"), GOLDEN["clean_lyrics"])
def test_published_cleaning(given_text: str, expected: str) -> None:
    """Published weights have never seen the characters that the table replaces."""
    assert clean_published(given_text) == expected


def test_published_cleaning_of_requests() -> None:
    """The same on the way of a whole request; and the table is complete."""
    assert len(REPLACEMENTS) == 162
    for case in GOLDEN["requests"]:
        if case["api_request"]["mode"] == "vocal":
            cleaned = clean_published(case["api_request"]["lyrics"])
            assert cleaned == case["worker_params"]["lyrics"]


@pytest.mark.parametrize("case", GOLDEN["clamp_prompt_ids"])
def test_published_clamp(case: dict[str, Any]) -> None:
    """A prompt that was cut in training must be cut in the same place."""
    assert clamp_published(range(case["n"]), case["max_len"]) == case["out"]
    with pytest.raises(RequestError, match="at least 2"):
        clamp_published(range(3), 1)


def test_a_bare_prompt_says_only_what_kind_and_how_long() -> None:
    """What guidance compares with must differ by nothing but description and words."""
    song = SongRequest(prompt="pop, piano", lyrics="[Verse]\nla la", duration_s=30)
    bare = build_prompt(song, NANO, BYTES, max_tokens=64, bare=True)
    whole = build_prompt(song, NANO, BYTES, max_tokens=64)
    assert set(bare) < set(whole)
    other = SongRequest(prompt="rock", lyrics="oh no", duration_s=30)
    assert build_prompt(other, NANO, BYTES, max_tokens=64, bare=True) == bare
    longer = SongRequest(prompt="rock", lyrics="oh no", duration_s=60)
    assert build_prompt(longer, NANO, BYTES, max_tokens=64, bare=True) != bare
    silent = SongRequest(prompt="rock", instrumental=True, duration_s=30)
    wanted = build_prompt(SongRequest(instrumental=True, duration_s=30), NANO, BYTES, max_tokens=64)
    assert build_prompt(silent, NANO, BYTES, max_tokens=64, bare=True) == wanted
