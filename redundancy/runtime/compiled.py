"""Numba's compiler as this package uses it: no lock is held while compiled code runs, and it is compiled once."""

import functools
from collections.abc import Callable

import numba


def compiled(function: Callable | None = None, **options) -> Callable:
    """`numba.njit` that keeps what it compiles on disk if it can: not in a folder that is read-only, as in a container.

    A compiled function must call others of its own module alone: Numba compiles it anew when its own file changes only.
    """
    if function is None:
        return functools.partial(compiled, **options)
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(nogil=True, **options)(function)
