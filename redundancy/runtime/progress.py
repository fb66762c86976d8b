"""Shows the progress of long work: on a terminal a bar with rate and remaining time, in a log plain lines."""

import collections
import shutil
import sys
import time

from absl import logging
from tqdm import tqdm

from redundancy.runtime import compiling, preemption

_WINDOW_S = 30.0  # seconds of work over which rates are measured
_APART_S = 0.5  # seconds between two stored measurements
_SAID_S = 1.0  # seconds; shorter compilations are not mentioned


def duration(seconds: float) -> str:
    """H:MM:SS, or M:SS below an hour."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """Counts `total` units of work; use as a context manager and call `advance`.

    The rate and the remaining time are based on the last half-minute, without compilation, whose time is shown separately.

    Args:
      what: name of the work, for example "embed end".
      total: total units of work.
      unit: name of the units, for example "images".
      done: units finished before this process started, which the rate excludes.
      every_s: seconds between two lines in a log.

    Raises:
      Preempted: from `advance`, if this process was asked to end and the work is not `preemption.deferred`.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0, every_s: float = 10.0):
        self._what, self._total, self._unit = what, total, unit
        self._first, self._done, self._every_s = done, done, every_s
        self._note = ""
        self._bar = None

    def __enter__(self):
        self._start = self._said = time.monotonic()
        compiling.watch()
        self._compiled = 0.0  # seconds of compilation that were already shown
        self._seen = collections.deque([(0.0, self._done)])  # seconds of work, and units that were done
        if sys.stderr.isatty():
            # tqdm would draw nothing on a terminal that does not report its size, which it takes for one without rows.
            columns, lines = shutil.get_terminal_size((100, 24))
            self._bar = tqdm(
                total=self._total,
                initial=self._done,
                desc=self._what,
                unit=f" {self._unit}",
                ncols=columns,
                nrows=lines,
            )
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """Adds `count` finished units. The bar shows `note`, for example the current loss."""
        preemption.check()
        self._done += count
        self._note = note or self._note
        now = time.monotonic()
        compiled = compiling.seconds_since(self._start)
        self._remember(now - self._start - compiled)
        if (seconds := compiled - self._compiled) >= _SAID_S:
            self._compiled = compiled
            if self._bar is None:
                logging.info("%s: compiling, %d s", self._what, round(seconds))
            else:
                self._bar.set_postfix_str(f"compiling, {round(seconds)} s", refresh=False)
                self._bar.last_print_t = min(now, self._bar.last_print_t + seconds)  # not counted by its rate
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif now - self._said >= self._every_s:
            self._line()

    def _remember(self, worked: float) -> None:
        """Stores measurements of the last half-minute of work, and the last one before it."""
        if len(self._seen) > 1 and worked - self._seen[-2][0] < _APART_S:
            self._seen.pop()
        self._seen.append((worked, self._done))
        while len(self._seen) > 2:
            # The first measurement, at the start, is dropped early, since the time before the first unit is not typical.
            kept = _WINDOW_S if self._seen[0][0] else self._every_s
            if worked - self._seen[1][0] < kept:
                break
            self._seen.popleft()

    def _line(self, end: bool = False) -> None:
        self._said = time.monotonic()
        (before, first), (worked, done) = self._seen[0], self._seen[-1]
        seconds = worked - before
        if end:
            first, seconds = self._first, self._said - self._start - compiling.seconds_since(self._start)
        rate = (done - first) / seconds if seconds > 0 else 0.0
        left = (self._total - self._done) / rate if rate else float("inf")
        when = f"in {duration(self._said - self._start)}" if end else f"{duration(left)} left" if rate else "? left"
        note = f", {self._note}" if self._note else ""
        each = f"{rate:,.0f}" if rate >= 1000 else f"{rate:.4g}"
        logging.info("%s: %d/%d %s, %s/s, %s%s", self._what, self._done, self._total, self._unit, each, when, note)

    def __exit__(self, kind, value, trace):
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._line(end=True)
