"""One running service: what its routes work with, and the questions they ask of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from starlette.requests import Request

from khala.errors import RequestError
from khala.serve.files import FolderFiles, StoreFiles, open_files
from khala.serve.hub import Hub
from khala.serve.jobs import Jobs
from khala.serve.ledger import Row
from khala.serve.line import Line
from khala.serve.orders import Order, searchable
from khala.serve.problems import Missing
from khala.serve.schemas import Rename
from khala.serve.sealing import Sealer
from khala.serve.settings import Settings
from khala.serve.sounds import Sounds
from khala.serve.tables import WORKERS
from khala.song import SongRequest
from khala.song.request import MAX_LEVELS

__all__ = ["Service", "owner_of", "service_of"]

ABOUT_KEPT_S = 5.0


@dataclass(kw_only=True)
class Service:
    """A service's parts."""

    settings: Settings
    jobs: Jobs
    files: FolderFiles | StoreFiles
    hub: Hub
    sounds: Sounds
    line: Line
    _models: list[dict[str, Any]] = field(default_factory=list)
    _models_s: float = -ABOUT_KEPT_S

    @classmethod
    def open(cls, settings: Settings) -> Service:
        """Connect everything; the tables are there."""
        jobs, files = Jobs(settings), open_files(settings)
        return cls(
            settings=settings,
            jobs=jobs,
            files=files,
            hub=Hub(jobs.ledger, settings.limits.streams),
            line=Line(ledger=jobs.ledger),
            sounds=Sounds(ledger=jobs.ledger, files=files, sealer=Sealer.open(settings)),
        )

    def close(self) -> None:
        """Give everything back."""
        self.hub.close()
        self.jobs.close()

    def row(self, song: str, owner: str) -> Row:
        """Return a song's row.

        Raises:
            Missing: there is none, or it is somebody else's.
        """
        row = self.jobs.ledger.song(song, owner)
        if row is None:
            raise Missing("there is no such song")
        return row

    @property
    def is_informed(self) -> bool:
        """Whether nothing that is asked often must be read from the database now."""
        kept_s = ABOUT_KEPT_S if self._models else 1.0
        return time.monotonic() - self._models_s <= kept_s and self.line.is_fresh

    def inform(self) -> None:
        """Read it."""
        self.models()
        self.line.look()

    def models(self) -> list[dict[str, Any]]:
        """Return what the workers that are alive tell of their models, with how many they are."""
        kept_s = ABOUT_KEPT_S if self._models else 1.0
        if time.monotonic() - self._models_s > kept_s:
            alive = sa.select(WORKERS.c.about).where(WORKERS.c.state == "alive")
            with self.jobs.engine.connect() as db:
                told = list(db.scalars(alive))
            by_name: dict[str, dict[str, Any]] = {}
            for about in told:
                known = by_name.setdefault(about["model"], {**about, "workers": 0})
                known["workers"] += 1
            self._models, self._models_s = list(by_name.values()), time.monotonic()
        return self._models

    @property
    def all_levels(self) -> int:
        """Levels that a finished song has, as far as is known."""
        return max((int(one["levels"]) for one in self.models()), default=MAX_LEVELS)

    def check(self, request: SongRequest) -> None:
        """Refuse what no model here can make, as far as is known.

        Raises:
            RequestError: with what is possible.
        """
        models = self.models()
        if not models:
            return
        most, longest = (max(one[name] for one in models) for name in ("levels", "longest_s"))
        if request.levels > most:
            raise RequestError(f"levels is {request.levels}: this model has 2 to {most}")
        if request.duration_s > longest:
            raise RequestError(
                f"duration is {request.duration_s:g}: at most {longest:.0f} seconds are possible "
                "with this model"
            )

    def submit(self, order: Order) -> list[Row]:
        """Take an order, if there is room for what will be made.

        Raises:
            OSError: the disk is nearly full.
            CapacityError: too many songs wait.
        """
        self.check_disk()
        return self.jobs.submit(order)

    def check_disk(self) -> None:
        """Refuse to take more when the disk is nearly full.

        Raises:
            OSError: it is; answered with status 507.
        """
        if isinstance(self.files, FolderFiles):
            self.files.check_room(self.settings.limits.disk_floor_bytes)

    def go_on(self, row: Row, *, levels: int | None = None) -> Row:
        """Have a song made further, if there is room for it."""
        self.check_disk()
        models = self.models()
        if levels is not None and models and levels > max(one["levels"] for one in models):
            most = max(one["levels"] for one in models)
            raise RequestError(f"levels is {levels}: this model has 2 to {most}")
        return self.jobs.go_on(row, levels=levels)

    def rename(self, row: Row, change: Rename) -> Row:
        """Change what an owner may change."""
        values: dict[str, Any] = {}
        if change.title is not None:
            title = change.title.strip()
            values |= {"title": title, "words": searchable(title, row["request"])}
        if change.kept is not None:
            values["kept"] = change.kept
        changed = self.jobs.ledger.change(row["id"], values) if values else row
        if changed is None:
            raise Missing("there is no such song")
        return changed

    def place(self, row: Row) -> tuple[int, float | None]:
        """Return where a waiting song stands, and the seconds until it is begun, if known."""
        return self.line.place(row, sum(one["workers"] for one in self.models()))


def service_of(request: Request) -> Service:
    """Return the service that a request came to."""
    service: Service = request.app.state.service
    return service


def owner_of(request: Request) -> str:
    """Return whose token a request carries; the guard has seen it."""
    owner: str = request.state.owner
    return owner
