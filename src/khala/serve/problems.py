"""What goes wrong, said once for machines and once for people (RFC 9457, problem+json)."""

from __future__ import annotations

import errno
import logging
import secrets
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from khala.errors import AudioError, CapacityError, KhalaError, RequestError, TokenError
from khala.serve.orders import Conflict

__all__ = ["PROBLEMS", "Missing", "Problem", "handle_problems", "problem"]

log = logging.getLogger(__name__)

TITLES = {
    400: "The request cannot be understood", 401: "A token is needed", 403: "Not allowed",
    404: "There is no such thing", 405: "Not possible here", 408: "The request took too long",
    409: "Not possible now", 411: "The length is missing", 413: "Too large",
    415: "Another kind of content is needed", 416: "Not that part", 422: "Not a valid request",
    429: "Too much at once", 500: "A mistake of ours", 503: "Not possible at the moment",
    507: "The disk is full",
}  # fmt: skip


class Problem(BaseModel):
    """Why something was not done."""

    type: str = Field(description="A name for machines: urn:khala:problem:CODE")
    title: str = Field(description="The kind of problem")
    status: int = Field(description="HTTP status")
    detail: str = Field(description="One line that says what was wrong and what is allowed")
    code: str = Field(description="A stable name")
    field: str | None = Field(None, description="The field that was wrong")
    request_id: str = Field(description="To be found in the log")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": TITLES[status], "content": {"application/problem+json": {
        "schema": {"$ref": "#/components/schemas/Problem"}}}}
    for status in (400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 503, 507)
}  # fmt: skip


class Missing(KhalaError):
    """There is no such song or file, or it is not yours to know of."""


def problem(
    status: int, code: str, detail: str, *, field: str | None = None, wait_s: float | None = None
) -> JSONResponse:
    """Return a response that says what went wrong."""
    content = Problem(
        type=f"urn:khala:problem:{code}", title=TITLES.get(status, "Not done"), status=status,
        detail=detail, code=code, field=field, request_id=secrets.token_hex(8),
    )  # fmt: skip
    headers = {"Cache-Control": "no-store"}
    if wait_s is not None:
        headers["Retry-After"] = str(max(1, round(wait_s)))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="khala"'
    return JSONResponse(
        content.model_dump(), status, headers, media_type="application/problem+json"
    )


def handle_problems(app: FastAPI) -> None:
    """Have every error of an application answered by a problem."""

    @app.exception_handler(RequestValidationError)
    def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        """Name the first field that is wrong; values of a user are not repeated."""
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return problem(400, "not_json", "the body is not JSON")
        place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
        name = ".".join(place) or "the body"
        if first["type"] == "extra_forbidden":
            return problem(422, "unknown_field", f"{name} is not a field of this", field=name)
        line = " ".join(first["msg"].split())
        line = line[:1].lower() + line[1:]
        return problem(422, "invalid", f"{name}: {line}", field=name)

    @app.exception_handler(KhalaError)
    def _khala(_: Request, error: KhalaError) -> JSONResponse:
        """Map our own errors."""
        line = " ".join(str(error).split())
        if isinstance(error, Missing):
            return problem(404, "not_found", line)
        if isinstance(error, Conflict):
            is_key = "Idempotency-Key" in line
            return problem(422 if is_key else 409, "key_reused" if is_key else "conflict", line)
        if isinstance(error, CapacityError):
            return problem(429, "busy", line, wait_s=10)
        if isinstance(error, RequestError | AudioError | TokenError):
            return problem(422, "invalid", line, field=line.split(" ", 1)[0])
        log.error("%s", type(error).__name__, exc_info=error)
        return problem(500, "internal", "something failed here; the log says what")

    @app.exception_handler(HTTPException)
    def _http(_: Request, error: HTTPException) -> JSONResponse:
        """Map what the library raises: unknown paths and methods."""
        names = {404: "not_found", 405: "method_not_allowed"}
        code = names.get(error.status_code, "http")
        answer = problem(error.status_code, code, str(error.detail).lower())
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(sa.exc.SQLAlchemyError)
    def _database(_: Request, error: sa.exc.SQLAlchemyError) -> JSONResponse:
        """A database that is away or full is not a mistake of the program."""
        line = str(getattr(error, "orig", error)).lower()
        log.warning("database: %s", type(error).__name__)
        if "full" in line or "disk i/o" in line or "no space" in line:
            return problem(507, "disk_full", "the disk is full: nothing was taken", wait_s=30)
        return problem(503, "no_database", "the database does not answer", wait_s=5)

    @app.exception_handler(OSError)
    def _disk(_: Request, error: OSError) -> JSONResponse:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return problem(507, "disk_full", "the disk is full: nothing was taken", wait_s=30)
        log.error("files: %s", type(error).__name__, exc_info=error)
        return problem(503, "no_files", "files cannot be read or written now", wait_s=5)

    @app.exception_handler(Exception)
    def _other(_: Request, error: Exception) -> JSONResponse:
        log.error("%s", type(error).__name__, exc_info=error)
        return problem(500, "internal", "something failed here; the log says what")
