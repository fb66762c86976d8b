"""The rate of work, computed from times at which pieces of it ended. Pauses do not count. Knows nothing of files."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_PAUSE = 3.0  # an interval this many times as long as the usual one is a pause, or time spent compiling
_RARE = 10.0  # the same, compared with the mean of all others, if intervals differ by nature
_TOGETHER = 2.0  # seconds within which pieces count as ended together


def of_lines(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Steps per second of one training, from its lines of metrics with `step` and `time`; None if they are too few."""
    intervals = [
        (later["time"] - earlier["time"], later["step"] - earlier["step"])
        for earlier, later in itertools.pairwise(lines)
    ]
    intervals = [(seconds, steps) for seconds, steps in intervals if seconds > 0 and steps > 0]
    if not intervals:
        return None
    usual = statistics.median_low(sorted(seconds / steps for seconds, steps in intervals))
    counted = [(seconds, steps) for seconds, steps in intervals if seconds / steps <= _PAUSE * usual]
    return sum(steps for _, steps in counted) / sum(seconds for seconds, _ in counted)


def of_ends(ends: Sequence[tuple[float, float]]) -> float | None:
    """Amount of work per second, from the times at which pieces of it ended; None if they are too few.

    Args:
      ends: end time in seconds and amount of each piece, in any order. The first piece only marks the start.
    """
    together: list[list[float]] = []
    for time, amount in sorted(ends):
        if together and time - together[-1][0] <= _TOGETHER and len(ends) > 2:
            together[-1][1] += amount
        else:
            together.append([time, amount])
    if len(together) < 2:  # all ended together: each counts by itself
        together = [[time, amount] for time, amount in sorted(ends)]
    intervals = [(later[0] - earlier[0], later[1]) for earlier, later in itertools.pairwise(together)]
    intervals = sorted((seconds, amount) for seconds, amount in intervals if seconds > 0)
    while len(intervals) > 2 and intervals[-1][0] > _RARE * statistics.mean(each[0] for each in intervals[:-1]):
        intervals.pop()
    seconds = sum(each for each, _ in intervals)
    return sum(amount for _, amount in intervals) / seconds if seconds else None
