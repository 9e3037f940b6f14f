"""Who stands still is found out; who only works long is not."""

from __future__ import annotations

import signal

import pytest

from khala.serve import worker
from khala.serve.supervisor import described, memory_kills
from khala.serve.worker import Pulse


def test_silence_is_measured_by_what_was_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of gigabytes needs a minute where a small one needs a hundredth of a second."""
    now_s = 0.0
    monkeypatch.setattr(worker.time, "monotonic", lambda: now_s)
    pulse = Pulse(patience_s=3.0, first_s=300.0)
    pulse.begin()
    now_s = 299.0
    assert pulse.is_beating, "nothing is known of a stage that has just begun"
    now_s = 301.0
    assert not pulse.is_beating
    pulse.begin()
    for _ in range(4):
        now_s += 0.01
        pulse.sign()
    now_s += 2.9
    assert pulse.is_beating
    now_s += 0.2
    assert not pulse.is_beating, "three seconds where a hundredth was usual"
    pulse.begin()
    for _ in range(4):
        now_s += 20.0
        pulse.sign()
    now_s += 190.0
    assert pulse.is_beating, "a slow computer is not dead"
    now_s += 20.0
    assert not pulse.is_beating


def test_ends_are_described() -> None:
    """Whoever reads the log should know what to look for."""
    assert described(3) == "ended with status 3"
    assert described(-signal.SIGSEGV) == "was ended by SIGSEGV"
    assert described(-250) == "was ended by signal 250"
    assert memory_kills() >= 0
