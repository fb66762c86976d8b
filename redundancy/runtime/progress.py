"""Shows the progress of long work: a bar with rate and time left on a terminal, plain lines in a log."""

import collections
import shutil
import sys
import time

from absl import logging
from tqdm import tqdm

from redundancy.runtime import compiling, preemption

_WINDOW_S = 30.0  # rates are those of the last seconds of work
_APART_S = 0.5  # between two moments that are remembered
_SAID_S = 1.0  # compiling that takes less is not mentioned


def duration(seconds: float) -> str:
    """H:MM:SS, or M:SS below an hour."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """Counts `total` units of work; use as a context manager and call `advance`.

    The rate, and the time left, is that of the last half-minute without what was compiled, which is said by itself.

    Args:
      what: what is being done, for example "embed end".
      total: units of work in all.
      unit: name of one unit, for example "images".
      done: units finished before this process started (they do not count in the rate).
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
        self._compiled = 0.0  # seconds that were mentioned
        self._seen = collections.deque([(0.0, self._done)])  # seconds of work, and units that were done
        if sys.stderr.isatty():
            # tqdm takes a terminal that does not report its size for one of no rows and would draw nothing.
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
        """Adds `count` finished units; `note` is shown beside the bar, for example the current loss."""
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
        """Keeps what was done at moments of the last half-minute of work, and at the last one before it."""
        if len(self._seen) > 1 and worked - self._seen[-2][0] < _APART_S:
            self._seen.pop()
        self._seen.append((worked, self._done))
        while len(self._seen) > 2:
            # What comes before the first unit does not come again: the start goes early.
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
