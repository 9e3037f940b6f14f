"""Functions in machine code, and the two functions of numbers that they need in vectors.

Importing this needs numba, which compiles a function when it is first called and keeps it on disk.
The library's own exponential and logarithm are called number by number; these are written out, so
that a loop of them becomes vector instructions: seven times faster (coefficients of Cephes).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

__all__ = ["compiled", "exp", "log"]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Have a function compiled when it is first called, and kept where there is a place for it.

    Nothing is computed in another order than it is written; products and sums may be fused.
    """
    for is_kept in (True, False):
        with contextlib.suppress(RuntimeError):  # no place: a folder that cannot be written
            decorate = numba.njit(
                fastmath={"contract"},
                error_model="numpy",  # a division that may raise is no vector instruction
                cache=is_kept,
                nogil=True,
            )
            return cast(Function, decorate(function))
    raise AssertionError(function)


@compiled
def exp(x: np.float32) -> np.float32:
    """Return e**x to 1e-7. The whole part of x / ln 2 becomes the exponent, a polynomial the rest.

    Below -87 it is 0 to float32; not meant for x above 88.
    """
    x = max(x, np.float32(-87.0))
    rounder = np.float32(12582912.0)  # 1.5 * 2**23: what is added to it loses its fraction
    whole = np.float32(x * np.float32(1.4426950408889634) + rounder) - rounder
    rest = (x - whole * np.float32(0.693359375)) + whole * np.float32(2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * rest + np.float32(1.3981999507e-3)
    y = y * rest + np.float32(8.3334519073e-3)
    y = y * rest + np.float32(4.1665795894e-2)
    y = y * rest + np.float32(1.6666665459e-1)
    y = y * rest + np.float32(5.0000001201e-1)
    y = y * rest * rest + rest + np.float32(1.0)
    return y * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled
def log(x: np.float32) -> np.float32:
    """Return ln x of a normal number above 0, to 1e-6 of it or absolutely, whichever is more."""
    bits = np.float32(x).view(np.int32)
    mantissa = np.int32((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000)).view(np.float32)
    is_low = mantissa < np.float32(0.70710678)
    exponent = np.float32(np.int32(bits >> np.int32(23)) - np.int32(126))
    exponent -= np.float32(1) if is_low else np.float32(0)
    x = (mantissa + mantissa if is_low else mantissa) - np.float32(1)
    y = np.float32(7.0376836292e-2)
    y = y * x + np.float32(-1.1514610310e-1)
    y = y * x + np.float32(1.1676998740e-1)
    y = y * x + np.float32(-1.2420140846e-1)
    y = y * x + np.float32(1.4249322787e-1)
    y = y * x + np.float32(-1.6668057665e-1)
    y = y * x + np.float32(2.0000714765e-1)
    y = y * x + np.float32(-2.4999993993e-1)
    y = y * x + np.float32(3.3333331174e-1)
    square = x * x
    y = y * x * square + exponent * np.float32(-2.12194440e-4) - np.float32(0.5) * square
    return x + y + exponent * np.float32(0.693359375)
