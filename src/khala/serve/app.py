"""The application: the API, the studio's files, and the guard around both."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from khala import __version__
from khala.serve import acestep, meta_api, songs_api
from khala.serve.guard import OPEN, Guard, Tokens
from khala.serve.problems import Problem, handle_problems, problem
from khala.serve.service import Service
from khala.serve.settings import Settings

__all__ = ["make_app", "openapi_document"]

DESCRIPTION = """\
Songs from words. `POST /v1/songs` takes a request and answers when it is safely stored; the song is
then made by a worker, and `GET /v1/events` tells how far it is. Every route but `/healthz` needs
`Authorization: Bearer TOKEN`. Errors are problems (RFC 9457) with a stable `code`.
"""


def make_app(settings: Settings, tokens: Tokens) -> Guard:
    """Return the whole application; it connects when it is started."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service.open(settings)
        try:
            yield
        finally:
            app.state.service.close()

    return Guard(api(lifespan), settings, tokens)


def api(lifespan: Any = None) -> FastAPI:
    """Return the routes."""
    app = FastAPI(
        title="Khala", version=__version__, description=DESCRIPTION, lifespan=lifespan,
        docs_url=None, redoc_url=None, openapi_url="/openapi.json",
    )  # fmt: skip
    app.include_router(songs_api.router)
    app.include_router(meta_api.router)
    app.include_router(meta_api.open_router)
    app.include_router(acestep.router)
    handle_problems(app)
    _describe_security(app)
    studio = studio_folder()
    if studio is not None:
        app.mount("/assets", StaticFiles(directory=studio / "assets"), name="assets")

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        """Return the studio."""
        if studio is None:
            return problem(404, "no_studio", "the studio is not built here: make studio")
        return FileResponse(studio / "index.html", headers={"Cache-Control": "no-cache"})

    return app


def studio_folder() -> Path | None:
    """Return where the built studio is, if it is."""
    folder = Path(str(importlib.resources.files("khala"))) / "studio"
    return folder if (folder / "index.html").is_file() else None


def _describe_security(app: FastAPI) -> None:
    """Say in the document that every route but one needs a token, and what problems look like."""
    made = app.openapi

    def described() -> dict[str, Any]:
        """Return the document."""
        document = made()
        components = document.setdefault("components", {})
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        document["security"] = [{"token": []}]
        for path in OPEN:
            document["paths"][path]["get"]["security"] = []
        return document

    app.openapi = described  # type: ignore[method-assign]


def openapi_document() -> str:
    """Return the document of the API as it is committed."""
    return json.dumps(api().openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
