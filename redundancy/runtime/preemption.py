"""How a process handles SIGTERM: it ends immediately if that is safe, otherwise at the next safe point.

All artifacts are written atomically, so ending is safe almost everywhere. A training saves its state first.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from redundancy.runtime.errors import Preempted

SHORTEST_S = 10  # smallest number of seconds for `stopping_after`
_LAST_S = 5.0  # seconds that functions of `before_end` may take
_SAVING_S = 30.0  # seconds before a time limit at which saving begins
_asked = threading.Event()
_before_end: list[Callable[[], None]] = []
_deferring = 0  # depth of nested `deferred`; only the main thread changes it


_why = "SIGTERM"


def message() -> str:
    """The message of a process that ends as asked."""
    return f"redundancy: ended as asked ({_why}); what was computed is saved. Give the same command again to continue."


def notice() -> None:
    """Records that this process, or another process of its run, was asked to end."""
    _asked.set()


def asked() -> bool:
    """Whether this process was asked to end."""
    return _asked.is_set()


def check() -> None:
    """Raises Preempted if the process was asked to end, except within `deferred`."""
    if _asked.is_set() and not _deferring:
        raise Preempted


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Context in which SIGTERM neither ends the process nor raises; the work itself must check `asked` and end."""
    global _deferring
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1


@contextlib.contextmanager
def before_end(function: Callable[[], None]) -> Iterator[None]:
    """Context in which `function` is called before SIGTERM ends the process."""
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
    # Does not raise, because an exception could interrupt any code, and an interrupted import leaves a library broken.
    _end()


def _end() -> None:
    print(message(), file=sys.stderr, flush=True)
    last = threading.Thread(target=_last, daemon=True)
    last.start()
    last.join(_LAST_S)
    os._exit(Preempted().code)


@contextlib.contextmanager
def stopping_after(seconds: float | None) -> Iterator[None]:
    """Context in which the process is asked to end, as by SIGTERM, some time before `seconds` are over; None never asks.

    A process that does not end by itself, for example during a compilation, is ended shortly before the time is over, without
    saving. As after `kill -9`, complete artifacts are not lost. The exit code is that of Preempted in either case.
    """
    if seconds is None:
        yield
        return
    end, over = time.monotonic() + seconds, threading.Event()

    def watch() -> None:
        global _why
        if over.wait(end - min(_SAVING_S, seconds / 4) - time.monotonic()):
            return
        _why = "--stop-after"
        os.kill(os.getpid(), signal.SIGTERM)
        if not over.wait(end - min(_LAST_S, seconds / 10) - time.monotonic()):
            _end()

    threading.Thread(target=watch, daemon=True, name="stop-after").start()
    try:
        yield
    finally:
        over.set()


@contextlib.contextmanager
def handling_sigterm() -> Iterator[None]:
    """Context in which SIGTERM ends the process at once with the code of Preempted or, within `deferred`, is only recorded.

    In a run of several processes, JAX's preemption service replaces this handler once the process has joined the
    others, and notifies all of them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def handle(signum, frame):
        if os.getpid() == own:
            _on_sigterm(signum, frame)
        else:  # a process that a library forked
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
        _asked.clear()
