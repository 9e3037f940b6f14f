"""What an operator chooses when a service is started; checked once, then carried everywhere."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from khala.errors import ConfigError

__all__ = ["Limits", "Settings", "is_loopback"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one service takes; more is refused at once, with the number in the answer."""

    queue: int = 1_000
    """Songs that wait, of everybody."""

    queue_each: int = 200
    """Songs that wait, of one owner."""

    variants: int = 4
    """Songs of one request."""

    requests_per_s: float = 20.0
    """Of one owner, on average; a burst of ten seconds is taken."""

    json_bytes: int = 64 << 10
    """Of a body of JSON."""

    upload_bytes: int = 32 << 20
    """Of an uploaded recording or .khala file."""

    streams: int = 100
    """Open event streams, of everybody."""

    disk_floor_bytes: int = 64 << 20
    """Free space under which no new song is taken."""

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if not value > 0:
                raise ConfigError(f"limit {one.name} is {value}: it must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One service."""

    data: Path
    """Folder of its own: database, files, keys. Made at first start."""

    host: str = "127.0.0.1"
    """Address to listen on; one that others can reach needs ``public_url``."""

    port: int = 8765
    """0 takes any free one."""

    public_url: str | None = None
    """How others reach it, such as https://songs.example.org: its host is answered, too."""

    database: str | None = None
    """SQLAlchemy URL of a PostgreSQL for many machines; None: SQLite in ``data``."""

    objects: str | None = None
    """URL of an object store for many machines (s3://bucket/prefix); None: files in ``data``."""

    model: str = "nano"
    """Model that workers load: "nano", a folder or a hub id."""

    device: str = "cpu"
    dtype: str | None = None

    workers: int = 1
    """Worker processes started beside the server; 0 if they run elsewhere."""

    maker: str = "khala.serve.maker:load"
    """What makes the songs, as module:function of these settings; tests have another."""

    certificate: str | None = None
    """PEM file with the certificates that sound files are signed with, the signer's first; None:
    some of its own, made at first start."""

    key: str | None = None
    """PEM file with the key that goes with them."""

    recovery_s: float = 6.0
    """A worker that gave no sign for so long is taken for dead."""

    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65_536:
            raise ConfigError(f"port is {self.port}: 0 to 65535 is allowed")
        if not 0 <= self.workers <= 64:
            raise ConfigError(f"workers is {self.workers}: 0 to 64 is allowed")
        if self.public_url is None and not is_loopback(self.host):
            raise ConfigError(
                f"{self.host} can be reached by others: say how with --public-url "
                "https://NAME (behind a proxy with TLS), or leave out --host"
            )
        if self.public_url is not None and not self.public_url.startswith(("http://", "https://")):
            raise ConfigError(f"public_url is {self.public_url!r}: it begins with https://")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("a certificate and its key are given together, or neither")
        if self.database is not None and not self.database.startswith(("postgresql", "sqlite")):
            raise ConfigError("the database is a postgresql:// or sqlite:// URL")

    @property
    def database_url(self) -> str:
        """Where songs and jobs are kept, as SQLAlchemy and DBOS want it."""
        if self.database is None:
            return f"sqlite:///{self.data / 'khala.db'}"
        scheme, rest = self.database.split("://", 1)
        return f"postgresql+psycopg://{rest}" if scheme == "postgresql" else self.database

    @property
    def is_sqlite(self) -> bool:
        """Whether everything is in one file."""
        return self.database_url.startswith("sqlite")

    def to_json(self) -> str:
        """Return them as a line for another process."""
        return json.dumps({**dataclasses.asdict(self), "data": str(self.data)})

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(line)
        limits = Limits(**values.pop("limits"))
        return cls(**{**values, "data": Path(values["data"]), "limits": limits})


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
