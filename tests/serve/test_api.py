"""The API as its document describes it."""

from __future__ import annotations

import dataclasses
import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import Running

from khala.audio import encode_audio
from khala.client import Client, Event, RemoteSong, ServiceError
from khala.serve.app import openapi_document
from khala.song import Song

WORDS = {"prompt": "pop", "lyrics": "la la", "duration": 2.0}
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def song(service: Running) -> RemoteSong:
    """A song that is finished."""
    (asked,) = service.client.create(**WORDS, seed=3, title="Ein Lied, 春")
    return service.client.wait(asked.id, timeout_s=60.0)


def refused(client: Client, **changes: Any) -> ServiceError:
    with pytest.raises(ServiceError) as error:
        client.create(**{**WORDS, **changes})
    return error.value


def fetched(
    client: Client, path: str, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(client._parts.netloc, timeout=20.0)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", path, None, {"Authorization": f"Bearer {client._token}", **named})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_the_document_is_that_of_the_program() -> None:
    """The studio's types and everybody's clients are made from it (make api)."""
    assert DOCUMENT.read_text() == openapi_document()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "x" * 1_001}, "prompt: string should have at most 1000"),
        ({"lyrics": "x" * 5_001}, "lyrics: string should have at most 5000"),
        ({"lyrics": ""}, "lyrics are empty"),
        ({"instrumental": True}, "an instrumental has none"),
        ({"lyrics": "a\x07b"}, r"control character U\+0007"),
        ({"lyrics": "\ud800"}, "not JSON|surrogate|unicode|control character"),
        ({"prompt": "a" + "\u0301" * 10}, "combining marks"),
        ({"duration": 0.5}, "duration: input should be greater"),
        ({"duration": 601}, "duration: input should be less"),
        ({"duration": 301}, "at most 300 seconds"),
        ({"duration": "30"}, "duration: input should be a valid number"),
        ({"duration": float("nan")}, "not JSON|finite"),
        ({"seed": -1}, "seed: input should be greater"),
        ({"seed": 2**53}, "seed: input should be less"),
        ({"seed": 1.5}, "seed: input should be a valid integer"),
        ({"seed": 2**53 - 1, "n": 2}, "must be smaller"),
        ({"n": 0}, "n: input should be greater"),
        ({"n": 5}, "n is 5: 1 to 4"),
        ({"levels": 1}, "levels: input should be greater"),
        ({"levels": 65}, "levels: input should be less"),
        ({"temperature": 0.05}, "temperature: input should be greater"),
        ({"top_k": 0}, "top_k: input should be greater"),
        ({"guidance_scale": 11}, "guidance_scale: input should be less"),
        ({"language": "klingon!"}, "language is"),
        ({"title": "a\nb"}, "title: string should match"),
        ({"priority": 0}, "priority: input should be greater"),
        ({"model_path": "/etc/passwd"}, "model_path is not a field"),
        ({"audio_url": "http://x"}, "audio_url is not a field"),
    ],
)
def test_what_cannot_be_made_is_said_at_once(
    client: Client, change: dict[str, Any], words: str
) -> None:
    """A song that fails after a minute in the queue, for a reason known at once, is an insult."""
    import re

    error = refused(client, **change)
    assert error.status in (400, 422)
    assert re.search(words, str(error), re.IGNORECASE), str(error)
    assert "\n" not in str(error)


def test_what_is_left_open_is_decided_and_told(client: Client) -> None:
    """A seed nobody knows cannot be used again."""
    (song,) = client.create(prompt="pop", lyrics=" ".join(["word"] * 80))
    assert song.told["request"]["duration"] == 54.0
    assert song.told["request"]["seed"] >= 0
    assert song.title.startswith("word word")
    client.act(song.id, "cancel")
    (song,) = client.create(prompt="calm, pad", instrumental=True, levels=2)
    assert song.told["request"]["duration"] == 30.0
    assert song.title == "calm, pad"
    client.act(song.id, "cancel")


def test_lists_have_pages_and_filters(client: Client, song: RemoteSong) -> None:
    """Hundreds of songs must be found again."""
    assert client.get(song.id).told == client._json("GET", "/v1/songs?q=EIN+lied")["songs"][0]
    assert next(client.songs(q="春", state="done")).id == song.id
    assert list(client.songs(q="nobody wrote this")) == []
    client.change(song.id, kept=True, title="Renamed 日本")
    assert [one.id for one in client.songs(kept="true", q="renamed 日本")] == [song.id]
    first = client._json("GET", "/v1/songs?limit=1")
    second = client._json("GET", f"/v1/songs?limit=1&cursor={first['next']}")
    assert first["songs"][0]["created_at"] > second["songs"][0]["created_at"]
    for bad in ("cursor=x", "cursor=", "limit=0", "limit=999", "state=dead", "q=" + "x" * 300):
        with pytest.raises(ServiceError) as error:
            client._json("GET", f"/v1/songs?{bad}")
        assert error.value.status == 422, bad


@pytest.mark.parametrize(
    ("wanted", "status", "start", "stop"),
    [
        (None, 200, 0, None), ("bytes=0-99", 206, 0, 100), ("bytes=100-", 206, 100, None),
        ("bytes=-50", 206, -50, None), ("bytes=5-5", 206, 5, 6), ("bytes=0-99999999", 206, 0, None),
        ("bytes=-99999999", 206, 0, None), ("bytes=99999999-", 416, 0, 0), ("bytes=-0", 416, 0, 0),
        ("bytes=0-1,3-4", 200, 0, None), ("bytes=5-2", 416, 0, 0), ("bytes=-", 200, 0, None),
        ("lines=1-2", 200, 0, None), ("bytes=" + "0" * 5_000 + "-", 200, 0, None),
    ],
)  # fmt: skip
def test_parts_of_a_file(
    client: Client, song: RemoteSong, wanted: str | None, status: int, start: int, stop: int | None
) -> None:
    """Players seek by asking for a part; a wrong one is noise."""
    whole = client.audio(song.id)
    headers = {} if wanted is None else {"Range": wanted}
    found, told, body = fetched(client, f"/v1/songs/{song.id}/audio", **headers)
    assert found == status
    if status == 416:
        assert told["Content-Range"] == f"bytes */{len(whole)}"
        assert json.loads(body)["code"] == "bad_range"
        return
    assert body == whole[slice(start, stop)]
    assert told["Content-Type"] == "audio/flac"
    if status == 206:
        first = start if start >= 0 else len(whole) + start
        assert told["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(whole)}"
    same, _, nothing = fetched(client, f"/v1/songs/{song.id}/audio", If_None_Match=told["ETag"])
    assert (same, nothing) == (304, b"")


def test_files_have_names_and_kinds(client: Client, song: RemoteSong) -> None:
    """A download called 'audio' with a title that breaks its header helps nobody."""
    client.change(song.id, title='a"b; \\c\u202e/../ü')
    _, told, body = fetched(client, f"/v1/songs/{song.id}/audio?format=mp3&download=true")
    assert told["Content-Type"] == "audio/mpeg"
    name = told["Content-Disposition"]
    assert name.startswith('attachment; filename="ab c.mp3"')
    assert "/" not in name.split(";")[1]
    assert "%C3%BC.mp3" in name
    assert b"ID3" in body[:3]
    _, told, body = fetched(client, f"/v1/songs/{song.id}/file")
    assert told["Content-Type"] == "application/vnd.khala"
    assert Song.from_bytes(body).seed == 3
    for path in ("plot", "peaks", "credentials"):
        status, told, body = fetched(client, f"/v1/songs/{song.id}/{path}")
        assert status == (404 if path == "credentials" else 200)
    for bad in ("audio?levels=5", "pieces/0", "pieces/-1", "pieces/1e3", "audio?format=ogg"):
        assert fetched(client, f"/v1/songs/{song.id}/{bad}")[0] in (404, 422)


def test_names_are_never_paths(client: Client) -> None:
    """Everything that comes in from outside is compared, and nothing of it is opened."""
    for name in ("..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "a" * 32, "0" * 33, "\\\\x",
                 "C:%5c", "0" * 31 + "%0a"):  # fmt: skip
        for path in (f"/v1/songs/{name}", f"/v1/songs/{name}/audio", f"/v1/audio?path={name}"):
            status, _, body = fetched(client, path)
            assert status in (404, 422), path
            assert b"root:" not in body


def test_events_go_on_after_a_lost_connection(client: Client) -> None:
    """A phone in a tunnel must not miss that the song is finished."""
    last = next(client._listen(None, None)).number
    (song,) = client.create(**WORDS, seed=4)
    client.wait(song.id, timeout_s=30.0)
    everything = listened(client, song.id, after=last)
    assert [one.number for one in everything] == sorted({one.number for one in everything})
    states = [one.data["state"] for one in everything if one.type == "song"]
    assert states[0] == "queued"
    assert states[-1] == "done"
    assert {one.type for one in everything} == {"song", "progress", "piece"}
    cut = everything[len(everything) // 2].number
    rest = listened(client, song.id, after=cut)
    assert rest == [one for one in everything if one.number > cut]
    assert listened(client, None, after=cut) == rest


def listened(client: Client, song: str | None, after: int) -> list[Event]:
    """Everything up to the moment that a song is done."""
    found = []
    for event in client.events(song, after=after):
        found.append(event)
        if event.data.get("state") == "done":
            break
    return found


def test_many_listen_at_once(client: Client) -> None:
    """Two tabs and a phone each hear everything, in order."""
    heard: list[list[Event]] = []

    def listen() -> None:
        heard.append(listened(client, None, after=last))

    last = next(client._listen(None, None)).number
    threads = [threading.Thread(target=listen) for _ in range(5)]
    for one in threads:
        one.start()
    time.sleep(0.3)
    (song,) = client.create(**WORDS, seed=5)
    client.wait(song.id, timeout_s=30.0)
    for one in threads:
        one.join(timeout=20.0)
    assert len(heard) == 5
    assert all(one == heard[0] for one in heard)


def test_pieces_of_the_sketch_are_heard_while_it_is_written(client: Client) -> None:
    """The first sound after a second is what makes people stay."""
    (song,) = client.create(**{**WORDS, "prompt": "slow"}, seed=6)
    for event in client.events(song.id, after=0):
        if event.type == "piece":
            break
    assert client.get(song.id).told["pieces"] == 1
    status, told, body = fetched(client, f"/v1/songs/{song.id}/pieces/0")
    assert (status, told["Content-Type"]) == (200, "audio/wav")
    assert body.startswith(b"RIFF")
    client.act(song.id, "cancel")
    client.wait(song.id, timeout_s=30.0)
    assert client.get(song.id).told["pieces"] == 0, "they are not kept"


def test_a_khala_file_comes_back(client: Client, song: RemoteSong) -> None:
    """A song that a friend sent is played, and refined."""
    sketch = Song.from_bytes(client.file(song.id)).with_levels(2)
    mine = client.wait(client.upload(sketch.to_bytes(), title="From a friend").id, timeout_s=30.0)
    assert (mine.state, mine.levels, mine.heard, mine.title) == ("done", 2, (2,), "From a friend")
    client.act(mine.id, "refine", levels=64)
    assert client.wait(mine.id, timeout_s=30.0).levels == 64
    assert (Song.from_bytes(client.file(mine.id)).codes_QT[:2] == sketch.codes_QT).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "a\x1b[31mred"}, {"lyrics": "\x00"}, {"created": "<|eot_id|>"},
        {"digests": {"codec": "a\x07"}}, {"sample_rate_hz": 1, "hop": 1_000_000},
    ],
)  # fmt: skip
def test_song_files_of_strangers_are_looked_at(
    client: Client, song: RemoteSong, changes: dict[str, Any]
) -> None:
    """A file can be sealed well and still hold what should be shown to nobody."""
    mine = dataclasses.replace(Song.from_bytes(client.file(song.id)), **changes)
    with pytest.raises(ServiceError) as error:
        client.upload(mine.to_bytes())
    assert error.value.status == 422


def test_a_recording_becomes_a_song(client: Client) -> None:
    """One's own music is where many begin."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 44_100)).astype(np.float32)
    for name in ("a.wav", "a.flac", "a.mp3", "a.opus"):
        data = encode_audio(name, noise, sample_rate_hz=48_000 if "opus" in name else 44_100)
        song = client.wait(client.upload(data).id, timeout_s=30.0)
        assert (song.state, song.levels, song.error) == ("done", 64, None)
        assert Song.from_bytes(client.file(song.id)).ended == "recording"


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"RIFF" + b"\0" * 100, b"#EXTM3U\nhttp://x/y.ts", b"\x89PNG" + b"x" * 99],
)
def test_what_is_no_sound_is_refused(client: Client, data: bytes) -> None:
    """And nothing of it stays."""
    with pytest.raises(ServiceError) as error:
        client.upload(data)
    assert error.value.status == 422


def test_uploads_are_counted_and_leave_nothing(client: Client, service: Running) -> None:
    """A disk that strangers can fill is a service that strangers can stop."""
    with pytest.raises(ServiceError) as error:
        client.upload(b"RIFF" + bytes(33 << 20))
    assert error.value.status in (0, 413)
    assert not list(service.data.glob("upload-*"))


def test_lyrics_are_looked_at(client: Client) -> None:
    """Tags that the model does not know are sung as words."""
    told = client._json("POST", "/v1/lyrics/check", {"lyrics": "VERSE 1:\nHello\n(chorus)\nLa la"})
    assert told["normalised"] == "[Verse 1]\nHello\n\n[Chorus]\nLa la"
    assert [one["tag"] for one in told["sections"]] == ["Verse 1", "Chorus"]
    assert told["words"] == 3
    assert told["warnings"] == []
    told = client._json("POST", "/v1/lyrics/check", {
        "lyrics": "before\n[Verse]\n[Chorus]\n" + "word " * 100, "duration": 10.0,
    })  # fmt: skip
    assert any("words in 10 seconds" in one for one in told["warnings"])
    assert any("belong to no section" in one for one in told["warnings"])
    assert any("[Verse] has no words" in one for one in told["warnings"])
    assert client._json("POST", "/v1/lyrics/check", {"lyrics": ""})["sections"] == []
    told = client._json("POST", "/v1/lyrics/check", {"lyrics": "[主歌]\n窗外的河，流过 my town"})
    assert told["words"] == 6 + 2, "a line of Chinese is not one word"
    with pytest.raises(ServiceError, match="reserved for the model's control tokens"):
        client._json("POST", "/v1/lyrics/check", {"lyrics": "<|eot_id|>"})


def test_the_rest(client: Client) -> None:
    """Models, tags, figures, and whose token this is."""
    (model,) = client._json("GET", "/v1/models")
    assert (model["name"], model["levels"], model["workers"]) == ("nano", 64, 1)
    assert {"tag": "piano", "group": "instrument"} in client._json("GET", "/v1/tags?q=pian")
    assert client._json("GET", "/v1/tags?q=zzz") == []
    me = client._json("GET", "/v1/me")
    assert me["owner"] == "owner"
    assert me["limits"]["variants"] == 4
    figures = client._fetch("GET", "/metrics").decode()
    assert 'khala_workers{model="nano"} 1.0' in figures
    assert 'khala_songs{state="done"}' in figures


def test_control_tokens_come_in_nowhere(client: Client, song: RemoteSong) -> None:
    """Words that are not words to the model would let anybody rewrite the prompt."""
    tokens = ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|\u200beot_id|>",
              "<|eo<|eot_id|>t_id|>")  # fmt: skip
    for token in tokens:
        for field in ("prompt", "lyrics"):
            error = refused(client, **{field: f"la {token} la"})
            assert error.status == 422
        with pytest.raises(ServiceError):
            client._json("POST", "/release_task", {"prompt": token, "lyrics": "la"})
        # a title is only shown: it may be anything, and never reaches a model
        assert client.change(song.id, title=token).title == token


def test_front_ends_for_ace_step_work(client: Client) -> None:
    """What people have built for another server should make songs here."""
    task = client._json("POST", "/release_task", {
        "caption": "pop, piano", "lyrics": "[Verse]\nla la", "audio_duration": 2, "batch_size": 2,
        "thinking": True, "inference_steps": 8, "audioFormat": "wav", "useRandomSeed": False,
        "seed": "42,43",
    })  # fmt: skip
    assert task["code"] == 200
    assert task["data"]["status"] == "queued"
    until_s = time.monotonic() + 30.0
    while True:
        asked = {"task_id_list": [task["data"]["task_id"], "unknown"]}
        found, unknown = client._json("POST", "/query_result", asked)["data"]
        if found["status"] != 0:
            break
        assert time.monotonic() < until_s
        time.sleep(0.1)
    assert (found["status"], unknown["status"]) == (1, 2)
    songs = json.loads(found["result"])
    assert [one["seed_value"] for one in songs] == ["42", "43"]
    assert songs[0]["metas"]["duration"] == pytest.approx(2.0, abs=0.1)
    status, told, body = fetched(client, songs[0]["file"])
    assert (status, told["Content-Type"]) == (200, "audio/wav")
    assert body.startswith(b"RIFF")
    for bad in ({"task_type": "cover"}, {"audio_duration": 10_000}, {"seed": "x",
                "use_random_seed": False}, {"batch_size": 99}, {"prompt": 5}):  # fmt: skip
        with pytest.raises(ServiceError) as error:
            client._json("POST", "/release_task", {"prompt": "pop", "lyrics": "la", **bad})
        assert error.value.status == 422
    assert client._json("GET", "/health")["status"] == "ok"
