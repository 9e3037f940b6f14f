"""Who may come in, and how much they may bring."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from running import Running

from khala.client import Client, ServiceError
from khala.errors import ConfigError
from khala.serve.app import api
from khala.serve.guard import OPEN, Tokens, add_owner
from khala.serve.settings import Limits, Settings

Answer = tuple[int, dict[str, str], bytes]


def send(
    service: Running,
    method: str = "GET",
    path: str = "/v1/songs",
    body: bytes | None = None,
    **headers: str,
) -> Answer:
    """Send exactly this."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20.0)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    found = {name.lower(): value for name, value in answer.getheaders()}
    read = answer.read() if "event-stream" not in found.get("content-type", "") else b""
    connection.close()
    return answer.status, found, read


def token(service: Running) -> str:
    return f"Bearer {service.client._token}"


def routes() -> list[tuple[str, str]]:
    """Every method of every route, as the application has them."""
    found = []
    for path, methods in api().openapi()["paths"].items():
        filled = re.sub(r"\{song\}", "0" * 32, re.sub(r"\{number\}", "0", path))
        found += [(method.upper(), filled) for method in methods]
    return [*found, ("GET", "/openapi.json")]


@pytest.mark.parametrize(("method", "path"), routes())
@pytest.mark.parametrize("given", ["", "Bearer wrong", "Basic b3duZXI6", "Bearer "])
def test_every_route_needs_a_token(service: Running, method: str, path: str, given: str) -> None:
    """A route that somebody forgot is how such services are robbed."""
    headers = {"Authorization": given} if given else {}
    status, found, body = send(service, method, path, **headers)
    if path in OPEN:
        assert status == 200
        assert json.loads(body)["status"] in ("ok", "no worker yet")
        return
    assert status == 401
    assert found["content-type"] == "application/problem+json"
    assert json.loads(body)["code"] == "no_token"


def test_paths_that_nobody_has_need_a_token_too(service: Running) -> None:
    """Whoever adds a route tomorrow need not think of this."""
    for path in ("/v1", "/v1/", "/v1/x", "/metrics/x", "/v1/../v1/songs", "/openapi.json/"):
        assert send(service, path=path)[0] == 401
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE"):
        assert send(service, method, "/")[0] == 401
    assert send(service, "OPTIONS", "/v1/songs")[0] == 405
    assert send(service, path="/v1/x", Authorization=token(service))[0] == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.1:1", "evil.example", ""])
@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1", "own", "http://own.evil"]
)
@pytest.mark.parametrize("site", [None, "same-origin", "cross-site", "same-site", "none"])
def test_no_other_page_may_use_it(
    service: Running, host: str, origin: str | None, site: str | None
) -> None:
    """A page in another tab, or a name that suddenly means this computer, could use the token."""
    own = f"127.0.0.1:{service.port}"
    for name, named_right in ((host, False), (own, True), (f"localhost:{service.port}", True)):
        headers = {"Host": name, "Authorization": token(service)}
        if origin is not None:
            headers["Origin"] = f"http://{own}" if origin == "own" else origin
        if site is not None:
            headers["Sec-Fetch-Site"] = site
        status, found, _ = send(service, **headers)
        allowed = named_right and origin in (None, "own") and site in (None, "same-origin", "none")
        assert status == (200 if allowed else 403)
        assert not [one for one in found if one.startswith("access-control")]
        assert found["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in found["content-security-policy"]


def test_bodies_are_counted(service: Running) -> None:
    """Memory that a stranger decides about is a way to stop everybody."""
    headers = {"Authorization": token(service), "Content-Type": "application/json"}
    big = b'{"prompt": "' + b"x" * (64 << 10) + b'"}'
    status, _, body = send(service, "POST", body=big, **headers)
    assert (status, json.loads(body)["code"]) == (413, "too_large")
    for lie in ("-1", "x", "99999999999999999999"):
        assert send(service, "POST", body=b"{}", **headers, Content_Length=lie)[0] in (400, 413)
    with socket.create_connection(("127.0.0.1", service.port), timeout=20.0) as one:
        head = f"POST /v1/songs HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\n"
        head += f"Authorization: {token(service)}\r\nContent-Type: application/json\r\n"
        one.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        answer = b""
        for _ in range(20):  # a megabyte that never says how long it is
            try:
                one.sendall(b"c800\r\n" + b" " * 51_200 + b"\r\n")
            except OSError:
                break
        answer = one.recv(65_536)
    assert b" 413 " in answer.split(b"\r\n")[0]
    form = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
    for kind in ("text/plain", form["Content-Type"], "multipart/form-data; boundary=x", ""):
        status, _, body = send(service, "POST", body=b"{}", **{**headers, "Content-Type": kind})
        assert (status, json.loads(body)["code"]) == (415, "wrong_content")


def test_a_long_head_is_refused(service: Running) -> None:
    """Headers are read before anybody is known."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10.0) as one:
        one.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000)
        assert one.recv(1_000).startswith(b"HTTP/1.1 4")


def test_owners_do_not_see_each_other(service: Running) -> None:
    """Unreleased words are nobody else's business, not even that they exist."""
    mine = service.client
    (song,) = mine.create(prompt="pop", lyrics="secret words", duration=2.0)
    mine.wait(song.id, timeout_s=60.0)
    other = f"other{time.time_ns()}"
    add_owner(service.data, other)
    service.stop()
    service.start()
    tokens = json.loads((service.data / "tokens.json").read_text())
    theirs = Client(f"http://127.0.0.1:{service.port}", tokens[other])
    assert list(theirs.songs()) == []
    assert list(theirs.songs(q="secret")) == []
    for method, path in routes():
        if "0" * 32 not in path or path.endswith("/events"):
            continue
        body = {"POST": {}, "PATCH": {"title": "x"}}.get(method)
        with pytest.raises(ServiceError) as refused:
            theirs._json(method, path.replace("0" * 32, song.id), body)
        assert refused.value.status == 404, (method, path)
    with pytest.raises(ServiceError):
        next(theirs.events(song.id))
    with pytest.raises(ServiceError):
        theirs._fetch("GET", f"/v1/audio?path={song.id}.mp3")
    result = theirs._json("POST", "/query_result", {"task_id_list": [song.id]})
    assert json.loads(result["data"][0]["result"]) == []
    assert service.client.get(song.id).state == "done"


def test_too_many_requests_wait() -> None:
    """One script in a loop must not be all that is answered."""
    from khala.serve.guard import Bucket

    bucket = Bucket(left=10.0)
    waits = [bucket.take(1.0) for _ in range(12)]
    assert waits[:10] == [0.0] * 10
    assert all(0.5 < wait <= 1.0 for wait in waits[10:])


def test_the_token_is_made_once_and_kept_private(tmp_path: Path) -> None:
    """Others on the same computer can read what is not locked."""
    tokens, new = Tokens.load(tmp_path)
    assert new is not None
    assert len(new) >= 43
    assert tokens.owner(new) == "owner"
    assert tokens.owner(new[:-1]) is None
    assert tokens.owner("") is None
    assert tokens.owner("\udcff") is None
    assert (tmp_path / "tokens.json").stat().st_mode & 0o077 == 0
    again, none = Tokens.load(tmp_path)
    assert none is None
    assert again == tokens
    anna = add_owner(tmp_path, "anna")
    assert Tokens.load(tmp_path)[0].owner(anna) == "anna"
    with pytest.raises(ConfigError, match="has a token already"):
        add_owner(tmp_path, "anna")
    (tmp_path / "tokens.json").chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        Tokens.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "can be reached by others"),
        ({"host": "::"}, "can be reached by others"),
        ({"host": "example.org"}, "can be reached by others"),
        ({"port": 70_000}, "0 to 65535"),
        ({"workers": -1}, "0 to 64"),
        ({"public_url": "songs.example"}, "begins with https"),
        ({"database": "mysql://x"}, "postgresql"),
        ({"certificate": "a.pem"}, "given together"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    """A service that anybody can reach by a slip of the keyboard is the field's first failure."""
    with pytest.raises(ConfigError, match=message):
        Settings(data=tmp_path, **settings)


def test_settings_travel_whole(tmp_path: Path) -> None:
    """A worker with other settings than its server makes other songs."""
    settings = Settings(data=tmp_path, limits=Limits(queue=3), host="::1", device="cuda")
    assert Settings.from_json(settings.to_json()) == settings
    with pytest.raises(ConfigError, match="above 0"):
        Limits(queue=0)


def test_it_listens_to_this_computer_alone(service: Running) -> None:
    """Also its workers: a door at the back is a door."""
    assert service.process is not None
    inodes = set()
    for pid in (service.process.pid, *service.workers()):
        for one in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes |= set(re.findall(r"socket:\[(\d+)\]", str(one.readlink())))
            except FileNotFoundError:
                continue
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1])
    assert [one.split(":")[0] for one in listening] == ["0100007F"]


def test_a_port_that_is_taken_is_said_in_a_line(service: Running, tmp_path: Path) -> None:
    """The second start is everybody's first mistake."""
    command = [sys.executable, "-m", "khala", "serve", "--data", str(tmp_path / "other")]
    done = subprocess.run(
        [*command, "--port", str(service.port)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("khala: error: cannot listen on 127.0.0.1")
    done = subprocess.run(
        [*command[:-1], str(service.data), "--port", "0"], capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "another process looks after" in done.stderr


def test_nothing_of_a_song_is_logged(service: Running) -> None:
    """Logs are copied, mailed and kept for years."""
    client = service.client
    for canary in ("canary-one broken", "canary-two crash", "canary-three notice"):
        (song,) = client.create(prompt=canary, lyrics=f"{canary} words", duration=2.0,
                                title=f"{canary} title")  # fmt: skip
        client.wait(song.id, timeout_s=60.0)
    with pytest.raises(ServiceError) as refused:
        client.create(prompt="canary-four <|eot_id|>", lyrics="x")
    told = client._fetch("GET", "/metrics").decode() + str(refused.value.code)
    log = (service.data.parent / "data.log").read_text()
    commands = "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in service.workers())
    for text in (told, log, commands):
        assert "canary" not in text
