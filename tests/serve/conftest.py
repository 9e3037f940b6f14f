"""A service that runs: started as a user starts it, with a maker that needs no model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Running

from khala.client import Client


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all tests that do not break it."""
    running = Running(data=tmp_path_factory.mktemp("service") / "data")
    running.start()
    running.wait_worker()
    yield running
    running.stop()


@pytest.fixture
def client(service: Running) -> Client:
    return service.client


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[Running]:
    """One that may be killed; a test starts it."""
    running = Running(data=tmp_path / "data", options=["--workers", "2"])
    yield running
    running.stop()
