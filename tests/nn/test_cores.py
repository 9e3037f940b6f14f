"""Work on several cores."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from khala.nn.cores import on_cores


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("num", [0, 1, 2, 7])
def test_results_are_in_order(threads: int, num: int) -> None:
    """Songs must not swap their sounds."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert on_cores(lambda each: each * each, num) == [each * each for each in range(num)]
    finally:
        torch.set_num_threads(before)


def test_the_first_error_comes_out() -> None:
    """Whichever core it happens on."""

    def work(each: int) -> int:
        if each == 3:
            raise ValueError("three")
        return each

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="three"):
            on_cores(work, 6)
        names = set(on_cores(lambda _: threading.current_thread().name, 4))
        assert len(names) == 2
    finally:
        torch.set_num_threads(before)


def test_a_forked_process_has_cores_of_its_own() -> None:
    """Waiting for threads that stayed in the parent would be for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        on_cores(abs, 4)
        child = os.fork()
        if child == 0:
            os._exit(0 if on_cores(abs, 4) == [0, 1, 2, 3] else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        torch.set_num_threads(before)
