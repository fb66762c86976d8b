"""Numba's compiler as this package uses it: no lock is held while compiled code runs, and it is compiled once."""

import functools
from collections.abc import Callable

import numba


def compiled(function: Callable | None = None, **options) -> Callable:
    """`numba.njit` that caches compiled code on disk, unless no folder can be written to, as in some containers.

    A compiled function may only call functions of its own module: Numba compiles it again only if its own file changes.
    """
    if function is None:
        return functools.partial(compiled, **options)
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(nogil=True, **options)(function)
