"""Being asked to end: what SIGTERM does to one process. Where work is safe to leave, it is left; else at the next safe point.

Every artifact is written whole or not at all, so nearly everywhere is safe. A training is not: it saves its state first.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

from redundancy.errors import Preempted

_asked = threading.Event()
_deferring = 0  # nested `deferred`; of the main thread alone


def notice() -> None:
    """Remembers that this process, or one that works with it, was asked to end."""
    _asked.set()


def asked() -> bool:
    """Whether this process was asked to end."""
    return _asked.is_set()


def check() -> None:
    """Raises Preempted where the process was asked to end, outside of `deferred`."""
    if _asked.is_set() and not _deferring:
        raise Preempted


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Work that ends itself: inside, `asked` tells that it should, and nothing is raised."""
    global _deferring
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1


def _on_sigterm(signum, frame) -> None:
    notice()
    check()


@contextlib.contextmanager
def handling_sigterm() -> Iterator[None]:
    """SIGTERM raises Preempted in the main thread, or is remembered inside `deferred`; as before afterwards.

    A process of several joins the others after this, and from then on JAX's preemption service waits for SIGTERM in place
    of this, and tells the others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
        _asked.clear()
