"""Waits for conditions, with timeouts long enough for a busy machine. Tests never just sleep."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: object = "", seconds: float = 120, every: float = 0.02) -> T:
    """Returns the first value of `condition` that is true; fails with `what`, or what it returns, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(every)
    return value


@contextlib.contextmanager
def ending(children: Iterable[subprocess.Popen]) -> Iterator[None]:
    """Kills those of the processes that have not ended by then."""
    try:
        yield
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.communicate()
