"""A real browser and a real service; every test has songs of its own in it."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright
from running import Running
from studio import BROWSER_OPTIONS, Person, Studio, build, chromium_path

OWNERS = {f"person{number}": secrets.token_urlsafe(32) for number in range(60)}
"""Whoever comes next finds an empty studio."""

OpenStudio = Callable[..., Studio]


@pytest.fixture(scope="session")
def studio_files() -> None:
    """The studio's files, built if they are not."""
    build()


@pytest.fixture(scope="session")
def browser(studio_files: None) -> Iterator[Browser]:  # noqa: ARG001
    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=chromium_path(), args=BROWSER_OPTIONS)
        yield one
        one.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, studio_files: None) -> Iterator[Running]:  # noqa: ARG001
    """One for all tests that do not break it."""
    running = Running(data=tmp_path_factory.mktemp("studio") / "data")
    running.data.mkdir()
    path = running.data / "tokens.json"
    path.write_text(json.dumps({"owner": secrets.token_urlsafe(32), **OWNERS}))
    path.chmod(0o600)
    running.start()
    running.wait_worker()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def newcomers() -> Iterator[str]:
    return itertools.chain(OWNERS.values())


@pytest.fixture
def person(service: Running, newcomers: Iterator[str]) -> Iterator[Person]:
    """Somebody who has no songs yet, and has none afterwards."""
    one = Person(url=f"http://127.0.0.1:{service.port}", token=next(newcomers))
    yield one
    for song in one.client.songs():
        one.client.delete(song.id)


@pytest.fixture
def open_studio(browser: Browser) -> Iterator[OpenStudio]:
    """Opens tabs, and looks afterwards whether any complained or asked anybody else."""
    tabs: list[Studio] = []
    contexts: list[BrowserContext] = []

    def opened(
        person: Person, *, beside: Studio | None = None, path: str | None = None, **options: Any
    ) -> Studio:
        if beside is None:
            width, height = options.pop("size", (1440, 900))
            settings = {"locale": "en-GB", "viewport": {"width": width, "height": height}}
            context = browser.new_context(**{**settings, **options})
            context.set_default_timeout(15_000)
            contexts.append(context)
        else:
            context = beside.page.context
        studio = Studio(page=context.new_page(), origin=person.url)
        tabs.append(studio)
        studio.page.goto(
            f"{person.url}/#token={person.token}" if path is None else person.url + path
        )
        return studio

    yield opened
    for context in contexts:
        context.close()
    problems = [line for tab in tabs for line in tab.errors]
    foreign = [url for tab in tabs for url in tab.foreign]
    assert not problems, problems
    assert not foreign, foreign
