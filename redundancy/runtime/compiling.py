"""Measures how long JAX and Numba compile in this process, so that rates of work can exclude it. Imports neither."""

import sys
import threading
import time

_JAX = "/jax/core/compile/"
_lock = threading.Lock()
_spans: list[tuple[float, float]] = []  # disjoint, ascending, in seconds of time.monotonic
_watched: set[str] = set()
_numba = threading.local()


def add(seconds: float) -> None:
    """Records a compilation that took `seconds` and ends now; several threads may compile at once."""
    end = time.monotonic()
    begin = end - seconds
    with _lock:
        while _spans and _spans[-1][1] >= begin:
            begin = min(begin, _spans.pop()[0])
        _spans.append((begin, end))


def seconds_since(moment: float) -> float:
    """Seconds since `moment` (of time.monotonic) during which some thread compiled."""
    with _lock:
        return sum(max(0.0, end - max(begin, moment)) for begin, end in _spans)


def _heard(event: str, seconds: float, **_) -> None:
    if event.startswith(_JAX):
        add(seconds)


def watch() -> None:
    """Starts recording the compilations of JAX and Numba, if they are imported; may be called repeatedly."""
    if "jax" in sys.modules and "jax" not in _watched:
        _watched.add("jax")
        import jax.monitoring

        jax.monitoring.register_event_duration_secs_listener(_heard)
    if "numba" in sys.modules and "numba" not in _watched:
        _watched.add("numba")
        from numba.core import event

        class Listener(event.Listener):
            def on_start(self, event):
                _numba.began = [*getattr(_numba, "began", []), time.monotonic()]

            def on_end(self, event):
                if began := getattr(_numba, "began", None):  # None if the compilation began before `watch`
                    add(time.monotonic() - began.pop())

        event.register("numba:compile", Listener())
