"""``khala serve`` and ``khala worker``: the service and its studio, and more workers for it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import logging
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from khala.commands.terminal import Terminal, add_output_options
from khala.errors import ConfigError

if TYPE_CHECKING:
    from khala.serve.settings import Limits, Settings

__all__ = ["add_serve", "add_worker", "run_serve", "run_worker"]

NEEDED = ("dbos", "fastapi", "uvicorn", "prometheus_client", "c2pa", "cryptography")
DATA = "~/.local/share/khala"

SERVE_EPILOG = """\
examples:
  khala serve                                     the studio on this computer: open what it prints
  khala serve --data /srv/khala --port 9000       with its songs and keys in a folder of your own
  khala serve --add-owner anna                    a token for somebody else; their songs are theirs
  khala serve --public-url https://songs.example.org               behind a proxy with TLS
  khala serve --database postgresql://db/khala --objects s3://songs --workers 0    many machines

Everything is in the data folder: songs, database, token, signing key. Nothing that was asked for is
lost when this is stopped or killed: the next start goes on. See docs/serving.md.
"""

WORKER_EPILOG = """\
examples:
  khala worker --database postgresql://db/khala --objects s3://songs --device cuda
  khala worker --database postgresql://db/khala --objects s3://songs --device cuda --slots 2

A worker takes songs from the queue of a service that has the same database and files. It can be
stopped or killed at any time: others go on with its songs.
"""


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = SERVE_EPILOG
    place = parser.add_argument_group("where")
    place.add_argument("--host", default="127.0.0.1", help="address to listen on (this computer)")
    place.add_argument("--port", type=int, default=8765, help="port (8765); 0: any free one")
    place.add_argument("--public-url", metavar="URL", help="how others reach it")
    place.add_argument("--add-owner", metavar="NAME", help="make a token for somebody, and leave")
    _add_common(parser)
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="worker processes here (1)"
    )
    parser.add_argument("--certificate", metavar="PEM", help="sign sound files with this chain")
    parser.add_argument("--key", metavar="PEM", help="the key that goes with it")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="NAME=NUMBER",
        help="how much is taken, such as queue=5000 (docs/serving.md)",
    )  # fmt: skip
    add_output_options(parser)


def add_worker(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = WORKER_EPILOG
    _add_common(parser)
    parser.add_argument(
        "--slots", type=int, default=1, metavar="N", help="worker processes here (1)"
    )
    parser.add_argument(
        "--name", metavar="NAME",
        help="of this computer's workers, unique and always the same (its host name)",
    )  # fmt: skip
    parser.add_argument("--certificate", metavar="PEM", help="sign sound files with this chain")
    parser.add_argument("--key", metavar="PEM", help="the key that goes with it")
    add_output_options(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default=DATA, metavar="FOLDER", help=f"its folder ({DATA})")
    parser.add_argument("--database", metavar="URL", help="a PostgreSQL, for many machines")
    parser.add_argument("--objects", metavar="URL", help="an object store, for many machines")
    parser.add_argument(
        "--model", default="nano", metavar="NAME", help="'nano', a folder, a hub id"
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), cuda, mps")
    parser.add_argument("--dtype", metavar="NAME", help="numbers to compute in")
    parser.add_argument("--maker", help=argparse.SUPPRESS)


def run_serve(args: argparse.Namespace) -> int:
    """Start workers and answer requests until stopped."""
    settings = _settings(args, workers=args.workers)
    from khala.serve.guard import Tokens, add_owner

    terminal = Terminal.of(args)
    settings.data.mkdir(parents=True, exist_ok=True)
    settings.data.chmod(0o700)
    if args.add_owner is not None:
        terminal.line(f"the token of {args.add_owner}: {add_owner(settings.data, args.add_owner)}")
        return 0
    _log()
    from khala.serve import tables
    from khala.serve.supervisor import Supervisor, host_prefix

    tables.prepare(settings)
    tokens, new = Tokens.load(settings.data)
    with _listening(settings) as listener:
        port = listener.getsockname()[1]
        address = settings.public_url or f"http://127.0.0.1:{port}"
        prefix = "local" if settings.is_sqlite else f"front-{host_prefix()}"
        supervisor = Supervisor(settings=settings, prefix=prefix)
        with supervisor.running():
            _greet(terminal, address, new, settings.data)
            _answer(settings, tokens, listener, port)
    return 0


def run_worker(args: argparse.Namespace) -> int:
    """Start workers and look after them until stopped."""
    settings = _settings(args, workers=args.slots)
    from khala.serve import tables
    from khala.serve.supervisor import Supervisor, host_prefix

    terminal = Terminal.of(args)
    if settings.database is None:
        raise ConfigError("give the service's --database: khala serve starts its own worker")
    prefix = args.name or host_prefix()
    if not re.fullmatch(r"[A-Za-z0-9-]{1,48}", prefix):
        raise ConfigError(f"--name is {prefix!r}: letters, digits and '-' are allowed")
    settings.data.mkdir(parents=True, exist_ok=True)
    _log()
    tables.prepare(settings)
    over = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: over.set())
    with Supervisor(settings=settings, prefix=prefix).running():
        terminal.line(
            f"{args.slots} worker(s) {prefix!r}; after Ctrl-C others go on with their songs"
        )
        sys.stdout.flush()
        over.wait()
    return 0


def _settings(args: argparse.Namespace, *, workers: int) -> Settings:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the service needs {', '.join(missing)}: install it with pip install 'khala[serve]'"
        )
    from khala.serve.settings import Settings

    limits = _limits(getattr(args, "limit", []))
    more = {"maker": args.maker} if args.maker is not None else {}
    return Settings(
        data=Path(args.data).expanduser().absolute(), host=getattr(args, "host", "127.0.0.1"),
        port=getattr(args, "port", 0), public_url=getattr(args, "public_url", None),
        database=args.database, objects=args.objects, model=args.model, device=args.device,
        dtype=args.dtype, workers=workers, certificate=args.certificate, key=args.key,
        limits=limits, **more,
    )  # fmt: skip


def _limits(given: list[str]) -> Limits:
    """Read ``--limit`` options.

    Raises:
        ConfigError: a name that is no limit, or no number.
    """
    from khala.serve.settings import Limits

    values: dict[str, float] = {}
    names = {one.name: one.type for one in dataclasses.fields(Limits)}
    for text in given:
        name, _, number = text.partition("=")
        if name not in names:
            raise ConfigError(f"--limit {text!r}: the limits are {', '.join(names)}")
        try:
            values[name] = float(number) if names[name] == "float" else int(number)
        except ValueError as error:
            raise ConfigError(f"--limit {text!r}: give a number") from error
    return Limits(**values)  # type: ignore[arg-type]


def _listening(settings: Settings) -> contextlib.closing[socket.socket]:
    """Take the port now: one that is taken is said before anything is started."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # said to be TCP: otherwise asyncio lets answers wait 40 ms for an acknowledgement
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {settings.host} port {settings.port}: "
            f"{(error.strerror or str(error)).lower()}; --port 0 takes a free one"
        ) from error
    return contextlib.closing(listener)


def _greet(terminal: Terminal, address: str, token: str | None, data: Path) -> None:
    terminal.document({"url": address, "token": token, "data": str(data)})
    if token is not None:
        terminal.line(f"open   {address}/#token={token}")
        terminal.line(f"token  {token}   (shown this once; it is kept in {data / 'tokens.json'})")
    else:
        terminal.line(f"open   {address}   (the token is in {data / 'tokens.json'})")
    terminal.line("stop   Ctrl-C: what was asked for is made after the next start")
    sys.stdout.flush()


def _answer(settings: Settings, tokens: object, listener: socket.socket, port: int) -> None:
    import uvicorn

    from khala.serve.app import make_app
    from khala.serve.guard import Tokens

    assert isinstance(tokens, Tokens)
    app = make_app(settings, tokens)
    app.port = port
    config = uvicorn.Config(
        app, http="h11", ws="none", lifespan="on", access_log=False, log_config=None,
        server_header=False, limit_concurrency=1_024, backlog=1_024, timeout_keep_alive=20,
        timeout_graceful_shutdown=3, h11_max_incomplete_event_size=16 << 10,
        proxy_headers=False,
    )  # fmt: skip
    # the thread that writes to the database gives way at every statement: it should be let in again
    sys.setswitchinterval(0.0005)
    server = uvicorn.Server(config)
    server.run(sockets=[listener])


def _log() -> None:
    """Log to stderr; no word of a song is ever logged."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="khala %(asctime)s %(message)s"
    )
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
