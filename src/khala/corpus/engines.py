"""Who does independent pieces of work: this process, several of this computer, or a Ray cluster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from khala.errors import ConfigError, CorpusError
from khala.processes import obey_parent

__all__ = ["Engine", "Processes", "RayCluster", "ThisProcess"]

J = TypeVar("J")
R = TypeVar("R")


class Engine(Protocol):
    """Does jobs in any order; a failure ends all."""

    def run(self, jobs: Sequence[J], do: Callable[[J], R]) -> Iterator[R]:
        """Give each job's result when it is done."""
        ...


class ThisProcess:
    """One job after the other."""

    def run(self, jobs: Sequence[J], do: Callable[[J], R]) -> Iterator[R]:
        """Do the jobs in their order."""
        for job in jobs:
            yield do(job)


@dataclass(frozen=True, slots=True)
class Processes:
    """Processes of this computer; jobs and function are pickled to them."""

    num: int

    def __post_init__(self) -> None:
        if not 1 <= self.num <= 256:
            raise ConfigError(f"1 to 256 worker processes, not {self.num}")

    def run(self, jobs: Sequence[J], do: Callable[[J], R]) -> Iterator[R]:
        """Do the jobs side by side; never more processes than jobs.

        Raises:
            CorpusError: a process died.
        """
        pool = ProcessPoolExecutor(
            max_workers=max(1, min(self.num, len(jobs))),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=obey_parent,
        )
        try:
            for done in as_completed([pool.submit(do, job) for job in jobs]):
                yield done.result()
        except BrokenProcessPool as error:
            raise CorpusError("a worker died; run the command again to go on") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A Ray cluster (extra ``[ray]``); every node must reach the same places."""

    address: str
    """As ``ray.init`` takes it: "auto", "host:port", or "local" for one made here."""

    gpus_per_job: float = 0.0
    """GPUs that each job holds."""

    def run(self, jobs: Sequence[J], do: Callable[[J], R]) -> Iterator[R]:
        """Do the jobs as Ray tasks; a task whose node dies is done again elsewhere.

        Raises:
            ConfigError: Ray is not installed, or there is no such cluster.
            CorpusError: a task failed.
        """
        ray = _ray()
        began = not ray.is_initialized()
        try:
            if began:
                ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"no Ray cluster at {self.address!r}: {error}") from error
        try:
            task = ray.remote(num_cpus=1, num_gpus=self.gpus_per_job, max_retries=3)(do)
            waiting = [task.remote(job) for job in jobs]
            while waiting:
                (first,), waiting = ray.wait(waiting, num_returns=1)
                try:
                    yield ray.get(first)
                except ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from None
                except ray.exceptions.RayError as error:
                    raise CorpusError(f"a Ray task failed: {error}") from error
        finally:
            if began:
                ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs Ray: pip install 'khala[ray]'") from error
    return ray
