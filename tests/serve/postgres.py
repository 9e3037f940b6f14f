"""A real PostgreSQL of one's own: made, started, killed and started again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg


def programs() -> Path:
    """Return where PostgreSQL's programs are.

    Raises:
        RuntimeError: it is not installed.
    """
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    places += [Path(found).resolve().parent] if found else []
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    raise RuntimeError("the tests need PostgreSQL: apt-get install postgresql")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(kw_only=True)
class Postgres:
    """One database server in a folder; it does not run as root, so the folder is made for it."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://khala@127.0.0.1:{self.port}/postgres"

    @property
    def _user(self) -> str | None:
        return "nobody" if os.geteuid() == 0 else None

    def create(self) -> None:
        """Make the server's folder."""
        self.folder.mkdir(parents=True)
        if self._user is not None:
            os.chown(self.folder, pwd.getpwnam(self._user).pw_uid, -1)
            for one in self.folder.parents:  # it must be able to get there
                if one.stat().st_uid == 0 and one != Path("/"):
                    one.chmod(one.stat().st_mode | 0o011)
        subprocess.run(
            [programs() / "initdb", "-D", self.folder / "db", "-U", "khala", "--auth=trust",
             "--no-sync", "-E", "UTF8", "--locale=C"],
            check=True, capture_output=True, user=self._user, cwd=self.folder,
        )  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it answers."""
        (self.folder / "db" / "postmaster.pid").unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [programs() / "postgres", "-D", self.folder / "db", "-p", str(self.port), "-c",
             "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}", "-c",
             "max_connections=150"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=self._user,
            start_new_session=True, cwd=self.folder,
        )  # fmt: skip
        until_s = time.monotonic() + 60.0
        while not self._answers():
            if time.monotonic() > until_s:
                raise RuntimeError("PostgreSQL did not start")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """Kill all of it at once, as a power cut does."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            # its children write a last time when they see that it is gone
            time.sleep(0.3)
