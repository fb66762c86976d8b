"""Shows the progress of long work: a bar with rate and time left on a terminal, plain lines in a log."""

import shutil
import sys
import time

from absl import logging
from tqdm import tqdm

from redundancy.runtime import preemption


def duration(seconds: float) -> str:
    """H:MM:SS, or M:SS below an hour."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """Counts `total` units of work; use as a context manager and call `advance`.

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
        self._began = None

    def __enter__(self):
        self._start = self._said = time.monotonic()
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
        if self._began is None:
            self._began = time.monotonic(), self._done
        self._note = note or self._note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._said >= self._every_s:
            self._line()

    def _line(self, end: bool = False) -> None:
        self._said = time.monotonic()
        since, first = self._start, self._first
        if not end and self._done > self._began[1] and self._said - self._began[0] >= self._every_s:
            since, first = self._began  # what comes before the first unit, such as compiling, does not come again
        rate = (self._done - first) / max(self._said - since, 1e-9)
        left = (self._total - self._done) / rate if rate else float("inf")
        when = f"in {duration(self._said - self._start)}" if end else f"{duration(left)} left" if rate else "? left"
        note = f", {self._note}" if self._note else ""
        logging.info("%s: %d/%d %s, %.4g/s, %s%s", self._what, self._done, self._total, self._unit, rate, when, note)

    def __exit__(self, kind, value, trace):
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._line(end=True)
