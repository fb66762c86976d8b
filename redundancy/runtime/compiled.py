"""Numba's compiler as this package uses it: compiled code releases the interpreter's lock and is cached on disk."""

import functools
from collections.abc import Callable

import numba


def compiled(function: Callable | None = None, **options) -> Callable:
    """`numba.njit` with a cache on disk, unless no folder is writable, as in some containers.

    A compiled function may only call functions of its own module, since Numba recompiles it only if its own file changes.
    """
    if function is None:
        return functools.partial(compiled, **options)
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(nogil=True, **options)(function)
