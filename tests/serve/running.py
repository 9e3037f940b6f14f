"""Starting a service as a user does, and killing parts of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from khala.client import Client

HERE = Path(__file__).parent


UNLIMITED = tuple(
    word
    for one in ("queue=100000", "queue_each=100000", "requests_per_s=100000")
    for word in ("--limit", one)
)
"""Options of a service that takes whatever comes, to be measured."""


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(kw_only=True)
class Running:
    """A `khala serve` with the fake maker of the tests, or the real one."""

    data: Path
    options: list[str] = field(default_factory=list)
    fake: bool = True
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it, and wait until it answers."""
        maker = ["--maker", "fake_maker:load"] if self.fake else []
        path = os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", "")))
        with (self.data.parent / f"{self.data.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "khala", "serve", "--data", str(self.data), "--port",
                 str(self.port), *maker, *self.options],
                stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )  # fmt: skip
        self.wait_ready(timeout_s)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until it answers."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0),
            ):
                return
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"the service ended with status {self.process.returncode}")
            time.sleep(0.02)
        raise RuntimeError("the service did not start")

    def wait_worker(self, timeout_s: float = 60.0) -> None:
        """Wait until songs can be made."""
        until_s = time.monotonic() + timeout_s
        while self.client._json("GET", "/healthz")["status"] != "ok":
            if time.monotonic() > until_s:
                raise RuntimeError("no worker came")
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """Return the processes that the service has started."""
        if self.process is None:
            return []
        try:
            text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except OSError:
            return []
        others = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        with contextlib.suppress(OSError):
            text = " ".join(one.read_text() for one in others)
        return sorted({int(pid) for pid in text.split()})

    def kill(self) -> None:
        """Kill the server; its workers leave by themselves."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop it as Ctrl-C does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=20.0)
            except subprocess.TimeoutExpired:
                self.kill()

    @property
    def client(self) -> Client:
        """Return a client of the first owner."""
        token = json.loads((self.data / "tokens.json").read_text())["owner"]
        return Client(f"http://127.0.0.1:{self.port}", token, timeout_s=20.0)
