"""Being asked to end: what SIGTERM does to one process. Where work is safe to leave, it is left; else at the next safe point.

Every artifact is written whole or not at all, so nearly everywhere is safe. A training is not: it saves its state first.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from redundancy.runtime.errors import Preempted

MESSAGE = "redundancy: ended as asked (SIGTERM); what was computed is saved. Give the same command again to continue."
_LAST_S = 5.0  # seconds for what must not be left behind
_asked = threading.Event()
_before_end: list[Callable[[], None]] = []
_deferring = 0  # nested `deferred`; of the main thread alone


def notice() -> None:
    """Remembers that this process, or one that works with it, was asked to end."""
    _asked.set()


def asked() -> bool:
    """Whether this process was asked to end."""
    return _asked.is_set()


def check() -> None:
    """Raises Preempted if the process was asked to end, outside of `deferred`."""
    if _asked.is_set() and not _deferring:
        raise Preempted


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Work that ends itself: inside, `asked` says whether it should, and nothing is raised."""
    global _deferring
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1


@contextlib.contextmanager
def before_end(function: Callable[[], None]) -> Iterator[None]:
    """Inside, `function` is called before SIGTERM ends the process at once."""
    _before_end.append(function)
    try:
        yield
    finally:
        _before_end.remove(function)


def _last() -> None:
    for function in reversed(_before_end):
        with contextlib.suppress(Exception):
            function()


def _on_sigterm(signum, frame) -> None:
    notice()
    if _deferring:
        return
    # An exception, here, could pass through anything: libraries that are just being imported do not survive it.
    print(MESSAGE, file=sys.stderr, flush=True)
    last = threading.Thread(target=_last, daemon=True)
    last.start()
    last.join(_LAST_S)
    os._exit(Preempted().code)


@contextlib.contextmanager
def handling_sigterm() -> Iterator[None]:
    """SIGTERM ends the process at once, with the code of Preempted, or is remembered inside `deferred`; as before afterwards.

    A process of several joins the others after this, and from then on JAX's preemption service waits for SIGTERM in place
    of this, and tells the others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def handle(signum, frame):
        if os.getpid() == own:
            _on_sigterm(signum, frame)
        else:  # a process that a library has forked
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
        _asked.clear()
